package shop;

import com.alipay.sofa.rpc.config.ConsumerConfig;
import com.alipay.sofa.rpc.config.MethodConfig;
import com.alipay.sofa.rpc.config.ProviderConfig;
import com.alipay.sofa.rpc.config.ServerConfig;
import java.util.Arrays;

/** A SOFARPC provider or consumer without a registry: `provider PORT NAME`, or `consumer PORT`. */
public class SofaPeer {
    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("provider")) {
            provide(Integer.parseInt(arguments[1]), arguments[2]);
        } else {
            consume(arguments[1]);
        }
        System.exit(0);
    }

    static void provide(int port, String name) throws Exception {
        ServerConfig server = new ServerConfig();
        server.setProtocol("bolt").setHost("127.0.0.1").setPort(port);
        ProviderConfig<Cart> provider = new ProviderConfig<>();
        provider.setInterfaceId(Cart.class.getName()).setRegister(false);
        provider.setServer(server).setRef(new CartOf(name));
        provider.export();
        Commands.say("\"ready\": true");
        Commands.stay();
    }

    static void consume(String port) throws Exception {
        MethodConfig note = new MethodConfig();
        note.setName("note").setInvokeType("oneway");
        ConsumerConfig<Cart> consumer = new ConsumerConfig<>();
        consumer.setInterfaceId(Cart.class.getName()).setRegister(false).setProtocol("bolt");
        consumer.setDirectUrl("bolt://127.0.0.1:" + port).setTimeout(10_000).setConnectionNum(1);
        consumer.setMethods(Arrays.asList(note));
        Cart cart = consumer.refer();
        Commands.say("\"ready\": true");
        new Commands(cart, tag -> {
            throw new IllegalArgumentException("no tags");
        }).serve();
    }
}
