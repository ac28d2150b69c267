package store;

import java.math.BigDecimal;
import java.util.Collections;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;

/** The store; `attachment` looks attachments of the call up. */
public class StoreOf implements Store {
    private final UnaryOperator<String> attachment;

    public StoreOf(UnaryOperator<String> attachment) {
        this.attachment = attachment;
    }

    public String hello(String name) {
        return "hello " + name;
    }

    public Order order(Item item, int count) {
        return order(Collections.singletonList(item), Collections.singletonMap(item.getName(), (long) count));
    }

    public Order order(List<Item> items, Map<String, Long> counts) {
        Order order = new Order();
        order.setItems(items);
        order.setCounts(counts);
        return order;
    }

    public BigDecimal total(BigDecimal price, long[] counts) {
        BigDecimal total = BigDecimal.ZERO;
        for (long count : counts) {
            total = total.add(price.multiply(BigDecimal.valueOf(count)));
        }
        return total;
    }

    public Date at(long milliseconds) {
        return new Date(milliseconds);
    }

    public Item[] none() {
        return null;
    }

    public void fail(String text) {
        throw new IllegalStateException(text);
    }

    public String slow(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        return "slow";
    }

    public String tag(String name) {
        return attachment.apply(name);
    }
}
