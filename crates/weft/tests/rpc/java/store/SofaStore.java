package store;

import com.alipay.sofa.rpc.config.ApplicationConfig;
import com.alipay.sofa.rpc.config.ProviderConfig;
import com.alipay.sofa.rpc.config.ServerConfig;
import com.alipay.sofa.rpc.core.request.SofaRequest;
import com.alipay.sofa.rpc.core.response.SofaResponse;
import com.alipay.sofa.rpc.filter.Filter;
import com.alipay.sofa.rpc.filter.FilterInvoker;
import java.util.Collections;

/** The store behind SOFARPC, without a registry: `PORT`. */
public class SofaStore {
    /** What the call of this thread is. */
    static final ThreadLocal<SofaRequest> CALL = new ThreadLocal<>();

    static class Remember extends Filter {
        @Override
        public SofaResponse invoke(FilterInvoker invoker, SofaRequest request) {
            CALL.set(request);
            return invoker.invoke(request);
        }
    }

    public static void main(String[] arguments) throws Exception {
        ServerConfig server = new ServerConfig()
            .setProtocol("bolt").setHost("127.0.0.1").setPort(Integer.parseInt(arguments[0])).setDaemon(false);
        ProviderConfig<Store> provider = new ProviderConfig<Store>()
            .setApplication(new ApplicationConfig().setAppName("store"))
            .setInterfaceId(Store.class.getName())
            .setVersion("1.2.0")
            .setRegister(false)
            .setServer(server)
            .setFilterRef(Collections.<Filter>singletonList(new Remember()))
            .setRef(new StoreOf(name -> (String) CALL.get().getRequestProp(name)));
        provider.export();
        System.out.println("{\"ready\": true}");
        System.out.flush();
        while (System.in.read() >= 0) {
            // Until whoever started it goes.
        }
        System.exit(0);
    }
}
