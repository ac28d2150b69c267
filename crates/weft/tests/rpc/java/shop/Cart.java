package shop;

/** What both sides agree on. */
public interface Cart {
    String where(String item);

    String payload(String text);

    void note(String text);

    int notes();

    String fail(String text);

    String slow(int milliseconds);
}
