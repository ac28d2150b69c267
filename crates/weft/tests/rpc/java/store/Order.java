package store;

import java.io.Serializable;
import java.util.List;
import java.util.Map;

public class Order implements Serializable {
    private List<Item> items;
    private Map<String, Long> counts;

    public List<Item> getItems() {
        return items;
    }

    public void setItems(List<Item> items) {
        this.items = items;
    }

    public Map<String, Long> getCounts() {
        return counts;
    }

    public void setCounts(Map<String, Long> counts) {
        this.counts = counts;
    }
}
