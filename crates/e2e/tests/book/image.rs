//! Images of Debian's packages, made of the machine's, as a lab has no registry.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoutd_lab::{Host, IMAGE};

/// How long it may take to make an image of some hundred megabytes.
const DEADLINE: Duration = Duration::from_secs(300);

/// Makes an image of the packages `$2...` and of all that they depend on, named `$1`: their files,
/// accounts and alternatives on top of the lab's image, without documentation and translations.
const MAKE: &str = r#"
image=$1; shift
docker image inspect "$image" >/dev/null 2>&1 && exit
for package; do
    dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" | grep -q '^ii' ||
        { echo "the machine lacks Debian's package $package" >&2; exit 1; }
done
files=$(mktemp)
{
    apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts \
        --no-breaks --no-replaces --no-enhances "$@" | grep '^[a-z0-9]' | sort -u |
        # Virtual packages have no files.
        xargs dpkg-query --listfiles 2>/dev/null || true
    printf '%s\n' /var/run /var/lock /etc/passwd /etc/group /etc/alternatives/*
    find /usr/bin /usr/sbin /usr/lib/*-linux-gnu -maxdepth 1 -lname '/etc/alternatives/*'
} | grep '^/' | grep -v '^/usr/share/\(doc\|man\|locale\|info\)/' | sort -u |
    while read -r file; do
        if [ -L "$file" ] || [ -f "$file" ] || [ -d "$file" ]; then echo "$file"; fi
    done > "$files"
container=$(docker create "$BASE" true)
tar --create --no-recursion --absolute-names --files-from "$files" \
    --transform 'flags=rh;s,^/,,;s,^\(lib\|lib64\|bin\|sbin\)/,usr/\1/,' 2>/dev/null |
    docker cp - "$container:/"
docker commit "$container" "$image" >/dev/null
docker rm "$container" >/dev/null
rm "$files"
"#;

/// Makes the image that a block's `docker build` would make on this host, unless it is there.
pub fn make(host: &Host, block: &str) -> Result<()> {
    let (name, packages) = named(block).context(
        "docker build --tag NAME ... apt-get install ... --no-install-recommends PACKAGES, and END",
    )?;
    let script = MAKE.replace("$BASE", IMAGE);
    let command = ["sh", "-ec", &script, "make", name];
    let output = host.run_for(DEADLINE, command.iter().copied().chain(packages))?;
    ensure!(output.success(), "the image {name} on {}: {output}", host.name());
    Ok(())
}

/// The name of the image and its packages.
fn named(block: &str) -> Option<(&str, Vec<&str>)> {
    let mut words = block.split_whitespace().skip_while(|word| *word != "--tag");
    let name = words.nth(1)?;
    let (_, packages) = block.split_once("--no-install-recommends")?;
    let packages = packages.split_whitespace().filter(|word| *word != "\\");
    Some((name, packages.take_while(|word| *word != "END").collect()))
}
