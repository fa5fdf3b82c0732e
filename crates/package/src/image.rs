//! The container image: the programs, without a distribution. It is made without a registry and
//! without an engine, in the format of `docker save` (OCI image-spec, "config"; Docker Image
//! Specification v1.2, "manifest.json").

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::files::{Archive, checksum_of, read, write_gz};

/// Name of the image.
pub const NAME: &str = "shoutd";

/// Where the programs are in the image.
const PROGRAMS: &str = "bin";

/// Directories over which `shoutdctl start --container` mounts the host's, and those that programs
/// expect.
const DIRECTORIES: [&str; 9] = ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "var", "var/lib"];

/// An image with one layer.
#[derive(Debug)]
pub struct Image {
    layer: Vec<u8>,
    date: u64,
}

impl Image {
    /// An image of statically linked programs, with a name each.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn of_static_programs(programs: &[(String, PathBuf)], date: u64) -> Result<Self> {
        Self::new(programs, &[], date)
    }

    /// An image of programs, with a name each, and further files, which have the same path in it as
    /// here. `date` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn new(programs: &[(String, PathBuf)], files: &[PathBuf], date: u64) -> Result<Self> {
        let mut archive = Archive::new(date);
        for directory in DIRECTORIES {
            archive.directory(directory, if directory == "tmp" { 0o1777 } else { 0o755 })?;
        }
        // The default path of Docker's socket begins with it.
        archive.link("var/run", "../run")?;
        for (name, file) in programs {
            archive.file(Path::new(PROGRAMS).join(name), &read(file)?, 0o755)?;
        }
        for file in files {
            archive.file(file.strip_prefix("/").unwrap_or(file), &read(file)?, 0o755)?;
        }
        Ok(Self { layer: archive.finish()?, date })
    }

    /// Writes the image, with this version as its tag and with the tag `latest`, for `docker load`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, version: &str, path: &Path) -> Result<()> {
        write_gz(path, &self.archive(version)?)
    }

    /// The image as an archive that is not compressed, as [`Image::save`] writes it.
    ///
    /// # Errors
    ///
    /// The archive cannot be made.
    pub fn archive(&self, version: &str) -> Result<Vec<u8>> {
        let created =
            OffsetDateTime::from_unix_timestamp(i64::try_from(self.date)?)?.format(&Rfc3339)?;
        let layer = checksum_of(&self.layer);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": {
                "Entrypoint": [format!("/{PROGRAMS}/shoutd")],
                "Env": [format!("PATH=/{PROGRAMS}")],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": NAME,
                    "org.opencontainers.image.version": version,
                    "org.opencontainers.image.licenses": "Apache-2.0",
                    "org.opencontainers.image.source": "https://github.com/shoutd/shoutd",
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
            "history": [{ "created": created, "created_by": "cargo xtask package image" }],
        });
        let config = config.to_string();
        let config_name = format!("{}.json", checksum_of(config.as_bytes()));
        let layer_name = format!("{layer}/layer.tar");
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [format!("{NAME}:{version}"), format!("{NAME}:latest")],
            "Layers": [layer_name],
        }]);
        let mut archive = Archive::new(self.date);
        archive.file(&config_name, config.as_bytes(), 0o644)?;
        archive.directory(&layer, 0o755)?;
        archive.file(format!("{layer}/VERSION"), b"1.0", 0o644)?;
        archive.file(&layer_name, &self.layer, 0o644)?;
        archive.file("manifest.json", manifest.to_string().as_bytes(), 0o644)?;
        archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use serde_json::Value;

    use super::*;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        });
        entries.collect()
    }

    #[test]
    fn an_image_has_the_programs_in_one_layer() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("built");
        std::fs::write(&program, "ELF").unwrap();
        let image = Image::of_static_programs(&[("shoutd".to_owned(), program)], 86400).unwrap();
        let archive = entries(&image.archive("1.2.3").unwrap());
        let manifest: Value = serde_json::from_slice(&archive["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["shoutd:1.2.3", "shoutd:latest"]));
        let config = &archive[manifest[0]["Config"].as_str().unwrap()];
        let config: Value = serde_json::from_slice(config).unwrap();
        assert_eq!(config["created"], "1970-01-02T00:00:00Z");
        let layer = &archive[manifest[0]["Layers"][0].as_str().unwrap()];
        let diff = config["rootfs"]["diff_ids"][0].as_str().unwrap();
        assert_eq!(diff, format!("sha256:{}", checksum_of(layer)));
        assert_eq!(entries(layer)["bin/shoutd"], b"ELF");
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/shoutd"]));
    }
}
