package shop;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.rpc.RpcContext;

/**
 * A Dubbo provider or consumer without a registry: `provider PORT NAME SERIALIZATION`, or `consumer PORT
 * SERIALIZATION` and then a command a line. Answers are JSON objects, one a line.
 */
public class Peer {
    static class CartOf implements Cart {
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

    public static void main(String[] arguments) throws Exception {
        ApplicationConfig application = new ApplicationConfig("shop");
        application.setQosEnable(false);
        if (arguments[0].equals("provider")) {
            provide(application, Integer.parseInt(arguments[1]), arguments[2], arguments[3]);
        } else {
            consume(application, arguments[1], arguments[2]);
        }
        System.exit(0);
    }

    static void say(String json) {
        System.out.println("{" + json + "}");
        System.out.flush();
    }

    static void provide(ApplicationConfig application, int port, String name, String serialization) throws Exception {
        ServiceConfig<Cart> service = new ServiceConfig<>();
        service.setApplication(application);
        service.setRegistry(new RegistryConfig(RegistryConfig.NO_AVAILABLE));
        ProtocolConfig protocol = new ProtocolConfig("dubbo", port);
        protocol.setHost("127.0.0.1");
        protocol.setSerialization(serialization);
        service.setProtocol(protocol);
        service.setInterface(Cart.class);
        service.setVersion("1.2.0");
        service.setGroup("blue");
        service.setRef(new CartOf(name));
        service.export();
        say("\"ready\": true");
        while (System.in.read() >= 0) {
            // Until whoever started it goes.
        }
    }

    static void consume(ApplicationConfig application, String port, String serialization) throws Exception {
        ReferenceConfig<Cart> reference = new ReferenceConfig<>();
        reference.setApplication(application);
        reference.setRegistry(new RegistryConfig(RegistryConfig.NO_AVAILABLE));
        reference.setInterface(Cart.class);
        reference.setVersion("1.2.0");
        reference.setGroup("blue");
        String wanted = "?serialization=" + serialization + "&prefer.serialization=" + serialization;
        reference.setUrl("dubbo://127.0.0.1:" + port + wanted);
        reference.setTimeout(10_000);
        reference.setRetries(0);
        reference.setCheck(false);
        reference.setConnections(1);
        MethodConfig note = new MethodConfig();
        note.setName("note");
        note.setReturn(false);
        reference.setMethods(Arrays.asList(note));
        Cart cart = reference.get();
        say("\"ready\": true");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String answer;
            try {
                answer = call(cart, line.split(" "));
            } catch (Exception e) {
                answer = "\"error\": \"" + String.valueOf(e.getMessage()).replaceAll("[^ -!#-\\[\\]-~]", " ") + "\"";
            }
            say(answer);
        }
    }

    static String call(Cart cart, String[] words) {
        switch (words[0]) {
            case "where": {
                Map<String, Integer> seen = new TreeMap<>();
                for (int i = 0; i < Integer.parseInt(words[1]); i++) {
                    if (words.length > 2) {
                        RpcContext.getContext().setAttachment("tag", words[2]);
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
