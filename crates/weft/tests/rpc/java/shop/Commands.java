package shop;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Consumer;

/** What a consumer is told on its standard input, a command a line. Answers are JSON objects, one a line. */
class Commands {
    private final Cart cart;
    /** Gives the next call the attachment `tag`. */
    private final Consumer<String> tag;
    /** That of all calls. */
    private String tagOfAll = "";

    Commands(Cart cart, Consumer<String> tag) {
        this.cart = cart;
        this.tag = tag;
    }

    static void say(String json) {
        System.out.println("{" + json + "}");
        System.out.flush();
    }

    /** Waits until whoever started this program goes. */
    static void stay() throws IOException {
        while (System.in.read() >= 0) {
            // It has nothing to say.
        }
    }

    void serve() throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String answer;
            try {
                answer = run(line.split(" "));
            } catch (Exception e) {
                answer = "\"error\": \"" + String.valueOf(e.getMessage()).replaceAll("[^ -!#-\\[\\]-~]", " ") + "\"";
            }
            say(answer);
        }
    }

    private String run(String[] words) {
        if (!tagOfAll.isEmpty()) {
            tag.accept(tagOfAll);
        }
        switch (words[0]) {
            case "tag":
                tagOfAll = words[1];
                return "\"tag\": true";
            case "where": {
                Map<String, Integer> seen = new TreeMap<>();
                for (int i = 0; i < Integer.parseInt(words[1]); i++) {
                    if (words.length > 2) {
                        tag.accept(words[2]);
                    } else if (i > 0 && !tagOfAll.isEmpty()) {
                        tag.accept(tagOfAll);
                    }
                    seen.merge(cart.where("item"), 1, Integer::sum);
                }
                StringBuilder out = new StringBuilder();
                for (Map.Entry<String, Integer> one : seen.entrySet()) {
                    out.append(out.length() == 0 ? "" : ", ");
                    out.append("\"").append(one.getKey()).append("\": ").append(one.getValue());
                }
                return "\"seen\": {" + out + "}";
            }
            case "payload": {
                StringBuilder sent = new StringBuilder();
                while (sent.length() < Integer.parseInt(words[1])) {
                    sent.append("\u00e4\ud83d\ude00");
                }
                return "\"same\": " + cart.payload(sent.toString()).equals(sent.toString());
            }
            case "note":
                cart.note("x");
                return "\"sent\": true";
            case "notes":
                return "\"notes\": " + cart.notes();
            case "fail":
                return "\"value\": \"" + cart.fail("no such item") + "\"";
            case "slow":
                return "\"value\": \"" + cart.slow(Integer.parseInt(words[1])) + "\"";
            default:
                return "\"error\": \"unknown command\"";
        }
    }
}
