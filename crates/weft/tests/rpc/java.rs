//! Programs in Java, compiled against a library of the test's. Must never know what they do.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use weft_testkit::{ConfigFolder, Peers, Script};

/// The release of SOFARPC.
const SOFA: &str = "5.13.2";

/// See the module.
pub(crate) struct Java {
    /// Those of the library.
    jars: PathBuf,
    classes: PathBuf,
    hosts: PathBuf,
    main: &'static str,
}

impl Java {
    /// Of a release of Dubbo.
    pub(crate) fn dubbo(folder: &ConfigFolder, release: &str) -> Self {
        Self::new(folder, Peers::new().dubbo(release), "Peer")
    }

    /// Of SOFARPC.
    pub(crate) fn sofa(folder: &ConfigFolder) -> Self {
        Self::new(folder, Peers::new().sofa_rpc(SOFA), "SofaPeer")
    }

    fn new(folder: &ConfigFolder, jars: PathBuf, main: &'static str) -> Self {
        let library = jars.parent().and_then(Path::file_name);
        let library = library.expect("a folder of its own").to_string_lossy();
        let classes = folder.path(&format!("classes-{library}"));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rpc/java/shop");
        let mut compile = Command::new("javac");
        compile.arg("-nowarn").arg("-d").arg(&classes).arg("-cp");
        compile.arg(jars.join("*"));
        let files = ["Cart", "CartOf", "Commands", main];
        compile.args(files.map(|file| sources.join(format!("{file}.java"))));
        let output = compile
            .output()
            .expect("javac, of the JDK that Maven runs on");
        assert!(output.status.success(), "{output:?}");
        // Dubbo asks how this machine is called, which not every machine can tell.
        let hosts = folder.write_beside("hosts", "127.0.0.1 localhost\n");
        Self {
            jars,
            classes,
            hosts,
            main,
        }
    }

    pub(crate) fn start(&self, folder: &ConfigFolder, name: &str, arguments: &[&str]) -> Script {
        let mut command = Command::new("java");
        let path = format!("{}:{}/*", self.classes.display(), self.jars.display());
        command
            .args(["--add-opens=java.base/java.lang=ALL-UNNAMED", "-Xmx192m"])
            .arg("--add-opens=java.base/java.math=ALL-UNNAMED")
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(format!("-Djdk.net.hosts.file={}", self.hosts.display()))
            .arg("-Ddubbo.network.interface.ignored=.*")
            .arg("-Ddubbo.application.serialize-check-status=DISABLE")
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
            // SOFARPC's heartbeats of connections without calls, and where it writes its own logs.
            .arg("-Dbolt.tcp.heartbeat.interval=1000")
            .arg(format!("-Dlogging.path={}", folder.path("logs").display()))
            .args(["-cp", &path, &format!("shop.{}", self.main)])
            .args(arguments);
        Script::start(name, command, &folder.log(&format!("{name}.log")))
    }

    /// The same, when it says that it is ready.
    pub(crate) async fn ready(
        &self,
        folder: &ConfigFolder,
        name: &str,
        arguments: &[&str],
    ) -> Script {
        let mut script = self.start(folder, name, arguments);
        assert_eq!(script.answer().await, json!({"ready": true}), "{name}");
        script
    }
}
