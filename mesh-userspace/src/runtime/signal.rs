//! Signals by name or number, as services and images write them.

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`; None where there is no such signal.
pub fn signal_number(word: &str) -> Option<i32> {
    if let Ok(number) = word.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = word.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(above) = name.strip_prefix("SIGRTMIN") {
        let above: i32 = if above.is_empty() { 0 } else { above.strip_prefix('+')?.parse().ok()? };
        return Some(libc::SIGRTMIN() + above).filter(|number| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number));
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(["SIGTERM", "term", "15"].map(signal_number), [Some(15); 3]);
        assert_eq!(signal_number("SIGRTMIN+3"), Some(37), "how systemd is told to halt in a container");
        assert_eq!(["SIGNONE", "0", "-9", "99", "SIGRTMIN+99"].map(signal_number), [None; 5]);
    }
}
