//! `--mount` as people write it: `type=volume,source=data,target=/var/lib/data`.

use crate::manifest::parse_bytes;
use crate::model::Mount;

const ALLOWED: &str = "allowed are type, source, target, readonly, bind-propagation, volume-driver, volume-opt, \
                       volume-label, volume-nocopy, volume-subpath, tmpfs-size, tmpfs-mode";

pub(super) fn parse_mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { kind: "volume".into(), ..Mount::default() };
    for field in fields(text)? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let flag = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("'{other}' for {key} in '{text}': allowed are true, false")),
        };
        let said = || value.map(str::to_string).ok_or_else(|| format!("'{key}' in '{text}' lacks its =VALUE"));
        let pair = || {
            let said = said()?;
            let (name, value) = said.split_once('=').unwrap_or((&said, ""));
            Ok::<_, String>((name.to_string(), value.to_string()))
        };
        let options = &mut mount.options;
        match key {
            "type" => mount.kind = said()?,
            "source" | "src" => mount.source = said()?,
            "target" | "dst" | "destination" => mount.target = said()?,
            "readonly" | "ro" => mount.read_only = flag()?,
            // Of macOS; says nothing here.
            "consistency" => {}
            "bind-propagation" => options.propagation = Some(said()?),
            "volume-driver" => options.driver = Some(said()?),
            "volume-opt" => options.driver_opts.extend([pair()?]),
            "volume-label" => options.labels.extend([pair()?]),
            "volume-nocopy" => options.no_copy = flag()?,
            "volume-subpath" => options.subpath = Some(said()?),
            "tmpfs-size" => options.tmpfs_size_bytes = Some(parse_bytes(&said()?)?),
            "tmpfs-mode" => {
                let digits = said()?;
                let mode = u32::from_str_radix(&digits, 8).ok().filter(|mode| *mode <= 0o7777);
                options.tmpfs_mode = Some(mode.ok_or_else(|| format!("'{digits}' is not a mode: write 1777"))?);
            }
            _ => return Err(format!("'{key}' in '{text}': {ALLOWED}")),
        }
    }
    check(text, &mount).map(|()| mount)
}

fn check(text: &str, mount: &Mount) -> Result<(), String> {
    let of_bind = mount.options.propagation.is_some();
    let of_volume = mount.options.driver.is_some()
        || mount.options.no_copy
        || mount.options.subpath.is_some()
        || !mount.options.labels.is_empty()
        || !mount.options.driver_opts.is_empty();
    let of_tmpfs = mount.options.tmpfs_size_bytes.is_some() || mount.options.tmpfs_mode.is_some();
    let is_path = mount.source.starts_with('/');
    match mount.kind.as_str() {
        "bind" | "volume" | "tmpfs" if !mount.target.starts_with('/') => {
            Err(format!("'{text}' needs target=/PATH, absolute"))
        }
        "bind" if !is_path => Err(format!("'{text}' needs source=/PATH, absolute: a folder or file of the node")),
        "volume" if is_path => Err(format!("'{text}' has a path for a volume's name: write type=bind")),
        "tmpfs" if !mount.source.is_empty() => Err(format!("'{text}': a tmpfs has no source")),
        "bind" if of_volume || of_tmpfs => Err(format!("'{text}' has options that a bind mount does not have")),
        "volume" if of_bind || of_tmpfs => Err(format!("'{text}' has options that a volume does not have")),
        "tmpfs" if of_bind || of_volume => Err(format!("'{text}' has options that a tmpfs does not have")),
        "bind" | "volume" | "tmpfs" => Ok(()),
        other => Err(format!("'{other}' in '{text}' is no type of mount: allowed are bind, volume, tmpfs")),
    }
}

/// Comma-separated values: a field in double quotes may have commas, as Docker has it for `volume-opt`.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(format!("a quote in '{text}' is not closed"));
    }
    fields.push(field);
    Ok(fields.into_iter().filter(|field| !field.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_mount() {
        let bind = parse_mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave").expect("a bind");
        assert!(bind.read_only && bind.options.propagation.as_deref() == Some("rslave"));
        let text = r#"source=nfs,target=/data,volume-driver=local,volume-opt=type=nfs,"volume-opt=o=addr=10.0.0.1,rw",volume-nocopy"#;
        let volume = parse_mount(text).expect("a volume");
        assert_eq!((volume.kind.as_str(), volume.source.as_str(), volume.options.no_copy), ("volume", "nfs", true));
        assert_eq!(volume.options.driver_opts["o"], "addr=10.0.0.1,rw");
        let tmpfs = parse_mount("type=tmpfs,target=/run,tmpfs-size=64m,tmpfs-mode=1770").expect("a tmpfs");
        assert_eq!((tmpfs.options.tmpfs_size_bytes, tmpfs.options.tmpfs_mode), (Some(64 << 20), Some(0o1770)));
    }

    #[test]
    fn wrong_mounts_are_told() {
        for (text, told) in [
            ("type=bind,source=a,target=/b", "needs source=/PATH"),
            ("source=data,target=b", "needs target=/PATH"),
            ("source=/a,target=/b", "write type=bind"),
            ("type=npipe,target=/b", "allowed are bind, volume, tmpfs"),
            ("type=tmpfs,target=/b,volume-nocopy", "a tmpfs does not have"),
            ("source=a,target=/b,size=1", "'size' in"),
            ("source=a,target=/b,ro=maybe", "allowed are true, false"),
        ] {
            let error = parse_mount(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
