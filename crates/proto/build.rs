//! Compiles one descriptor set from Envoy's and our own .proto files, and Rust types from
//! ours. Envoy's Rust types come from the `envoy-types` crate, and so do its .proto files:
//! types and descriptors can then never be of two versions.

use std::fmt::Write as _;
use std::{
    env,
    error::Error,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message as _;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The import roots inside of the crate's `proto` folder.
const ENVOY_ROOTS: [&str; 8] = [
    "cel-spec/proto",
    "client_model",
    "data-plane-api",
    "googleapis",
    "opentelemetry-proto",
    "protoc-gen-validate",
    "ratelimit",
    "xds",
];

fn main() -> Result<()> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let ours = manifest_dir.join("proto");
    println!("cargo::rerun-if-changed={}", ours.display());
    println!("cargo::rerun-if-changed=build.rs");
    let envoy = envoy_protos(&manifest_dir)?;
    println!("cargo::rerun-if-changed={}", envoy.display());

    let protoc = protoc_bin_vendored::protoc_bin_path()?;
    let well_known = protoc_bin_vendored::include_path()?;
    let mut includes: Vec<PathBuf> = vec![ours.clone(), well_known];
    let mut files = proto_files(&ours)?;
    let our_names: Vec<String> = files
        .iter()
        .map(|file| {
            Ok(file
                .strip_prefix(&ours)?
                .to_string_lossy()
                .replace('\\', "/"))
        })
        .collect::<Result<_>>()?;
    for root in ENVOY_ROOTS {
        let root = envoy.join(root);
        files.extend(proto_files(&root)?);
        includes.push(root);
    }

    // The bytes go in as protoc wrote them: decoding them here and encoding them again would
    // lose all custom options, and with them Envoy's validation rules.
    let descriptors = out_dir.join("descriptors.bin");
    compile_descriptors(&protoc, &includes, &files, &out_dir, &descriptors)?;
    let bytes = fs::read(descriptors)?;
    let mut set = prost_types::FileDescriptorSet::decode(bytes.as_slice())?;

    // Only our own files become Rust here; what they import is `envoy-types`' already, but the
    // generator wants to see the imported messages to know what can be derived.
    let imported: Vec<String> = set
        .file
        .iter()
        .filter(|file| our_names.iter().any(|ours| ours == file.name()))
        .flat_map(|file| file.dependency.iter().cloned())
        .collect();
    set.file.retain(|file| {
        our_names
            .iter()
            .chain(&imported)
            .any(|wanted| wanted == file.name())
    });
    prost_build::Config::new()
        .enable_type_names()
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .extern_path(".envoy", "::envoy_types::pb::envoy")
        .btree_map(["."])
        .include_file("ours.rs")
        .compile_fds(set)?;
    Ok(())
}

/// Runs protoc over all files; its command line would be too long for some systems, so the
/// arguments go through a file.
fn compile_descriptors(
    protoc: &Path,
    includes: &[PathBuf],
    files: &[PathBuf],
    out_dir: &Path,
    result: &Path,
) -> Result<()> {
    let mut arguments = format!(
        "--include_imports\n--descriptor_set_out={}\n",
        result.display()
    );
    for include in includes {
        // Writing to a String cannot fail.
        let _ = writeln!(arguments, "--proto_path={}", include.display());
    }
    for file in files {
        let _ = writeln!(arguments, "{}", file.display());
    }
    let argument_file = out_dir.join("protoc.arguments");
    fs::write(&argument_file, arguments)?;
    let output = Command::new(protoc)
        .arg(format!("@{}", argument_file.display()))
        .output()
        .map_err(|error| format!("cannot run {}: {error}", protoc.display()))?;
    if !output.status.success() {
        return Err(format!(
            "protoc failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(())
}

/// All .proto files below a folder, sorted, so that the result does not depend on the disk.
fn proto_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension() == Some(OsStr::new("proto")) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Where the `envoy-types` crate that this build links keeps its .proto files.
///
/// Cargo does not tell a build script where a dependency's source lies. Crates of one
/// registry, or of one vendor folder, lie side by side though, and protoc's own crate knows
/// where it lies; so look beside it, for the version that Cargo.lock names. Where that fails
/// (a patched or a path dependency), ask cargo, which may need the whole tree at hand.
fn envoy_protos(manifest_dir: &Path) -> Result<PathBuf> {
    let version = locked_version(manifest_dir, "envoy-types");
    let beside = protoc_bin_vendored::include_path()?;
    for folder in beside.ancestors().take(4) {
        let versioned = version
            .as_ref()
            .map(|version| folder.join(format!("envoy-types-{version}/proto")));
        for candidate in versioned
            .into_iter()
            .chain([folder.join("envoy-types/proto")])
        {
            if candidate.join("data-plane-api").is_dir() {
                return Ok(candidate);
            }
        }
    }
    envoy_protos_from_cargo(manifest_dir)
}

/// The version of a package in the nearest Cargo.lock, if there is one.
fn locked_version(manifest_dir: &Path, package: &str) -> Option<String> {
    let lock = manifest_dir
        .ancestors()
        .map(|dir| dir.join("Cargo.lock"))
        .find(|p| p.is_file())?;
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = fs::read_to_string(lock).ok()?;
    let (_, rest) = text.split_once(&format!("name = \"{package}\""))?;
    let line = rest
        .lines()
        .find_map(|line| line.strip_prefix("version = "))?;
    Some(line.trim_matches('"').to_owned())
}

fn envoy_protos_from_cargo(manifest_dir: &Path) -> Result<PathBuf> {
    let output = Command::new(env::var("CARGO")?)
        .args([
            "metadata",
            "--offline",
            "--format-version=1",
            "--filter-platform",
        ])
        .arg(env::var("TARGET")?)
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "cannot find the .proto files of envoy-types: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata has no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not list envoy-types")?;
    Ok(Path::new(manifest)
        .parent()
        .ok_or("a manifest has no folder")?
        .join("proto"))
}
