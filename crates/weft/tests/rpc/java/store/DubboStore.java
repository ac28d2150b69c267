package store;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.rpc.RpcContext;

/** The store behind Dubbo, without a registry: `PORT`. */
public class DubboStore {
    public static void main(String[] arguments) throws Exception {
        ApplicationConfig application = new ApplicationConfig("store");
        application.setQosEnable(false);
        ServiceConfig<Store> service = new ServiceConfig<>();
        service.setApplication(application);
        service.setRegistry(new RegistryConfig(RegistryConfig.NO_AVAILABLE));
        ProtocolConfig protocol = new ProtocolConfig("dubbo", Integer.parseInt(arguments[0]));
        protocol.setHost("127.0.0.1");
        service.setProtocol(protocol);
        service.setInterface(Store.class);
        service.setVersion("1.2.0");
        service.setRef(new StoreOf(name -> RpcContext.getContext().getAttachment(name)));
        service.export();
        System.out.println("{\"ready\": true}");
        System.out.flush();
        while (System.in.read() >= 0) {
            // Until whoever started it goes.
        }
        System.exit(0);
    }
}
