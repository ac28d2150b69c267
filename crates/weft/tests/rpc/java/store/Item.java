package store;

import java.io.Serializable;

public class Item implements Serializable {
    public enum Kind { BOOK, TEA }

    private String name;
    private double price;
    private Kind kind;
    private Item part;

    public String getName() {
        return name;
    }

    public void setName(String name) {
        this.name = name;
    }

    public double getPrice() {
        return price;
    }

    public void setPrice(double price) {
        this.price = price;
    }

    public Kind getKind() {
        return kind;
    }

    public void setKind(Kind kind) {
        this.kind = kind;
    }

    public Item getPart() {
        return part;
    }

    public void setPart(Item part) {
        this.part = part;
    }
}
