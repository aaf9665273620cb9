//! Durations, sizes and command words as people write them. Used by flags and by manifests alike.

/// Go's notation: a sequence of number and unit, `ns us ms s m h`; a bare number is refused as Docker does.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let fail = || format!("'{text}' is not a duration: write e.g. 500ms, 10s, 1m30s");
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut total_ms = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit_ms = match unit {
            "ns" => 1e-6,
            "us" | "µs" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            _ => return Err(fail()),
        };
        total_ms += number.parse::<f64>().map_err(|_| fail())? * unit_ms;
        rest = tail;
    }
    if text.is_empty() { Err(fail()) } else { Ok(total_ms.round() as u64) }
}

/// Docker's notation: `512M`, `1g`, `64kb`, powers of 1024; a bare number is bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let fail = || format!("'{text}' is not a size: write e.g. 64M, 1.5G");
    let lower = text.trim().to_ascii_lowercase();
    let stem = lower.strip_suffix('b').unwrap_or(&lower);
    let stem = stem.strip_suffix('i').unwrap_or(stem);
    let (number, factor) = match stem.char_indices().next_back() {
        Some((at, 'k')) => (&stem[..at], 1u64 << 10),
        Some((at, 'm')) => (&stem[..at], 1 << 20),
        Some((at, 'g')) => (&stem[..at], 1 << 30),
        Some((at, 't')) => (&stem[..at], 1 << 40),
        _ => (stem, 1),
    };
    let number: f64 = number.trim().parse().map_err(|_| fail())?;
    if number.is_finite() && number >= 0.0 { Ok((number * factor as f64) as u64) } else { Err(fail()) }
}

/// CPUs as a decimal number (`0.5`), in billionths.
pub fn parse_nano_cpus(text: &str) -> Result<u64, String> {
    match text.trim().parse::<f64>() {
        Ok(cpus) if cpus > 0.0 && cpus < 1e6 => Ok((cpus * 1e9).round() as u64),
        _ => Err(format!("'{text}' is not a number of CPUs: write e.g. 0.5")),
    }
}

/// Seconds of `client-ip` where none are said: Kubernetes' `ClientIP` has the same.
const DEFAULT_AFFINITY_S: u32 = 10_800;

/// `client-ip`, `client-ip=SECONDS`, or `none` for none.
pub fn parse_affinity(text: &str) -> Result<Option<u32>, String> {
    match text.split_once('=') {
        None if text == "none" => Ok(None),
        None if text == "client-ip" => Ok(Some(DEFAULT_AFFINITY_S)),
        Some(("client-ip", seconds)) => match seconds.parse() {
            Ok(seconds) if seconds > 0 => Ok(Some(seconds)),
            _ => Err(format!("'{seconds}' is not a number of seconds")),
        },
        _ => Err(format!("'{text}' is not allowed here: client-ip, client-ip=SECONDS, none")),
    }
}

/// The label's key in `node.labels.KEY`, or `none` for none.
pub fn parse_weight_by(text: &str) -> Result<Option<String>, String> {
    match text.strip_prefix("node.labels.") {
        None if text == "none" => Ok(None),
        Some(key) if !key.is_empty() => Ok(Some(key.to_string())),
        _ => Err(format!("'{text}' is not allowed here: node.labels.KEY, none")),
    }
}

/// A command line cut into words as a POSIX shell does: quotes and backslashes, no expansion.
pub fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(format!("a quote (') in '{text}' is not closed")),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err(format!("a quote (\") in '{text}' is not closed")),
                        },
                        Some(c) => word.push(c),
                        None => return Err(format!("a quote (\") in '{text}' is not closed")),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration_ms("1m30s"), Ok(90_000));
        assert_eq!(parse_duration_ms("1.5s"), Ok(1500));
        assert_eq!(parse_duration_ms("500ms"), Ok(500));
        assert_eq!(parse_duration_ms("0"), Ok(0));
        assert!(parse_duration_ms("10").is_err());
        assert!(parse_duration_ms("").is_err());
        assert!(parse_duration_ms("ten s").is_err());
    }

    #[test]
    fn sizes_and_cpus_are_dockers() {
        assert_eq!(parse_bytes("512"), Ok(512));
        assert_eq!(parse_bytes("64M"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5gb"), Ok(3 << 29));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert!(parse_bytes("much").is_err() && parse_bytes("-1").is_err() && parse_bytes("").is_err());
        assert_eq!(parse_nano_cpus("0.5"), Ok(500_000_000));
        assert!(parse_nano_cpus("0").is_err());
    }

    #[test]
    fn words_are_the_shells() {
        let words = |text| split_words(text).expect("closed quotes");
        assert_eq!(words(r#"sh -c "echo \"hi\" $X" 'a b'c\ d"#), ["sh", "-c", r#"echo "hi" $X"#, "a bc d"]);
        assert_eq!(words("a '' b"), ["a", "", "b"]);
        assert!(split_words("echo 'open").is_err());
    }
}
