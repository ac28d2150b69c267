//! Network namespaces in which a sidecar captures the traffic of an application, as in a Pod.
//! Sockets belong to the namespace in which they were made, so that a test works in several of
//! them from one process. Needs root, `ip` and `iptables`. Must never know who uses them.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{Gid, LinkNameSpaceType, move_into_link_name_space, set_thread_gid};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The group of proxies, whose own traffic is not captured; Istio's number.
const PROXY: u32 = 1337;
/// How names begin; the process id follows.
const PREFIX: &str = "weft-";
const TIMEOUT: Duration = Duration::from_secs(5);
const HINT: &str = "network namespaces need root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and the \
                    programs ip and iptables (Debian: apt install iproute2 iptables)";

/// A network namespace with a loopback interface; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    relays: Vec<JoinHandle<()>>,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self {
            name,
            relays: Vec::new(),
        };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Joins two by a cable: `ip` here and `other_ip` there, in one /24. What is neither there
    /// nor here leads over the cable.
    pub fn connect_to(&self, ip: Ipv4Addr, other: &Self, other_ip: Ipv4Addr) {
        self.run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}",
            other.name
        ));
        for (end, own, far) in [(self, ip, other_ip), (other, other_ip, ip)] {
            end.run(&format!("ip addr add {own}/24 dev eth0"));
            end.run("ip link set eth0 up");
            end.run(&format!("ip route add default via {far}"));
        }
    }

    /// Gives it one more address.
    pub fn add_address(&self, ip: Ipv4Addr) {
        self.run(&format!("ip addr add {ip}/32 dev lo"));
    }

    /// Redirects what programs here send to port 15001, except what proxies and relays send, and
    /// what comes for `ip` to port 15006, as Istio does in a Pod.
    pub fn capture(&self, ip: Ipv4Addr) {
        for rule in [
            format!("OUTPUT -p tcp -m owner --gid-owner {PROXY} -j RETURN"),
            "OUTPUT -p tcp -d 127.0.0.0/8 -j RETURN".to_owned(),
            "OUTPUT -p tcp -j REDIRECT --to-ports 15001".to_owned(),
            format!("PREROUTING -p tcp -d {ip} -j REDIRECT --to-ports 15006"),
        ] {
            self.run(&format!("iptables -w -t nat -A {rule}"));
        }
    }

    /// Runs a command in it.
    fn run(&self, line: &str) {
        let inside = ["netns", "exec", &self.name];
        let words: Vec<&str> = inside.into_iter().chain(line.split(' ')).collect();
        run("ip", &words);
    }

    /// Does something in it: sockets and processes that `work` makes belong to it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.name, None, work)
    }

    /// The same in the group of proxies, whose traffic is not captured.
    pub fn enter_as_proxy<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.name, Some(PROXY), work)
    }

    /// A listening socket of it.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.enter(|| std::net::TcpListener::bind(address));
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        listener.unwrap_or_else(|error| panic!("{address} in {}: {error}", self.name))
    }

    /// A connection of a program in it.
    ///
    /// # Errors
    /// It is refused, or takes too long.
    pub async fn connect(&self, address: SocketAddr) -> Result<TcpStream, String> {
        connect(self.name.clone(), None, address).await
    }

    /// The same of one whose traffic is not captured, as if it had no sidecar.
    ///
    /// # Errors
    /// As [`Namespace::connect`].
    pub async fn connect_uncaptured(&self, address: SocketAddr) -> Result<TcpStream, String> {
        connect(self.name.clone(), Some(PROXY), address).await
    }

    /// Makes what listens at this address of the machine reachable at the same address in here.
    pub fn relay_in(&mut self, address: SocketAddr) {
        let listener = self.listen(address);
        self.relays
            .push(tokio::spawn(relay(listener, move || async move {
                TcpStream::connect(address).await.map_err(|e| e.to_string())
            })));
    }

    /// Makes what listens at this address in here reachable at the same address of the machine.
    pub async fn relay_out(&mut self, address: SocketAddr) {
        let listener = TcpListener::bind(address).await;
        let listener = listener.unwrap_or_else(|error| panic!("{address}: {error}"));
        let name = self.name.clone();
        self.relays.push(tokio::spawn(relay(listener, move || {
            connect(name.clone(), None, address)
        })));
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for relay in &self.relays {
            relay.abort();
        }
        // If it is gone already, so much the better.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

fn enter<T: Send>(name: &str, group: Option<u32>, work: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{name}");
    let work = || {
        let file = File::open(&path);
        let file = file.unwrap_or_else(|error| panic!("{path}: {error}"));
        let moved = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        moved.unwrap_or_else(|error| panic!("{path}: {error}; {HINT}"));
        if let Some(group) = group {
            let changed = set_thread_gid(Gid::from_raw(group));
            changed.unwrap_or_else(|error| panic!("the group {group}: {error}; {HINT}"));
        }
        work()
    };
    // A thread of its own: its namespace and group end with it.
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn connect(
    name: String,
    group: Option<u32>,
    address: SocketAddr,
) -> Result<TcpStream, String> {
    let work = move || {
        enter(&name, group, || {
            std::net::TcpStream::connect_timeout(&address, TIMEOUT)
        })
    };
    let connected = tokio::task::spawn_blocking(work).await;
    let connected = connected.map_err(|error| error.to_string())?;
    let stream = connected.and_then(|stream| {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        TcpStream::from_std(stream)
    });
    stream.map_err(|error| error.to_string())
}

async fn relay<F>(listener: TcpListener, connect: impl Fn() -> F)
where
    F: Future<Output = Result<TcpStream, String>> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        // Without it answers would wait for delayed ACKs; the test would only be slow.
        let _ = near.set_nodelay(true);
        let connecting = connect();
        connections.spawn(async move {
            if let Ok(mut far) = connecting.await {
                // However it ends, it ends for both.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Removes namespaces of test programs that were killed.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let gone = |id: &str| !std::path::Path::new("/proc").join(id).exists();
        if id.is_some_and(|(id, _)| gone(id)) {
            // Another test program may be removing it, too.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; {HINT}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let line = arguments.join(" ");
    assert!(output.status.success(), "{program} {line}: {said}; {HINT}");
}
