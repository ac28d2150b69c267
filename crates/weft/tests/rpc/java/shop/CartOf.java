package shop;

import java.util.concurrent.atomic.AtomicInteger;

/** A cart that says whose it is. */
class CartOf implements Cart {
    private final String name;
    private final AtomicInteger notes = new AtomicInteger();

    CartOf(String name) {
        this.name = name;
    }

    public String where(String item) {
        return name;
    }

    public String payload(String text) {
        return text;
    }

    public void note(String text) {
        notes.incrementAndGet();
    }

    public int notes() {
        return notes.get();
    }

    public String fail(String text) {
        throw new IllegalStateException(text);
    }

    public String slow(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        return name;
    }
}
