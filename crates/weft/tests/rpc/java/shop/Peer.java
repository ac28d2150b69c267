package shop;

import java.util.Arrays;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.rpc.RpcContext;

/**
 * A Dubbo provider or consumer without a registry: `provider PORT NAME SERIALIZATION`, or `consumer PORT
 * SERIALIZATION`, which sends a heartbeat after a second without a call.
 */
public class Peer {
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
        Commands.say("\"ready\": true");
        Commands.stay();
    }

    static void consume(ApplicationConfig application, String port, String serialization) throws Exception {
        ReferenceConfig<Cart> reference = new ReferenceConfig<>();
        reference.setApplication(application);
        reference.setRegistry(new RegistryConfig(RegistryConfig.NO_AVAILABLE));
        reference.setInterface(Cart.class);
        reference.setVersion("1.2.0");
        reference.setGroup("blue");
        String wanted = "?serialization=" + serialization + "&prefer.serialization=" + serialization;
        reference.setUrl("dubbo://127.0.0.1:" + port + wanted + "&heartbeat=1000");
        reference.setTimeout(10_000);
        reference.setRetries(0);
        reference.setCheck(false);
        reference.setConnections(1);
        MethodConfig note = new MethodConfig();
        note.setName("note");
        note.setReturn(false);
        reference.setMethods(Arrays.asList(note));
        Cart cart = reference.get();
        Commands.say("\"ready\": true");
        new Commands(cart, tag -> RpcContext.getContext().setAttachment("tag", tag)).serve();
    }
}
