package store;

import java.math.BigDecimal;
import java.util.Date;
import java.util.List;
import java.util.Map;

/** What the gateway calls by names and values. */
public interface Store {
    String hello(String name);

    Order order(Item item, int count);

    Order order(List<Item> items, Map<String, Long> counts);

    BigDecimal total(BigDecimal price, long[] counts);

    Date at(long milliseconds);

    Item[] none();

    void fail(String text);

    String slow(int milliseconds);

    String tag(String name);
}
