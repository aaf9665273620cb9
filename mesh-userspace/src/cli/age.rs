//! Times for people: ages as Docker tells them (`About a minute`), moments as RFC 3339.

/// Docker's `HumanDuration`.
pub(super) fn human(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago, counted from the answering node's `at`; another node's clock may be ahead of it.
pub(super) fn ago(at: u64, since: u64) -> String {
    format!("{} ago", human(at.saturating_sub(since)).to_lowercase())
}

/// A moment in RFC 3339, UTC, as `inspect` shows it (civil-from-days, Howard Hinnant).
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let (days, rest_ms) = ((unix_ms / 86_400_000) as i64, unix_ms % 86_400_000);
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest_ms / 3_600_000, rest_ms / 60_000 % 60, rest_ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_dockers() {
        let minutes = 60_000;
        let told = [0, 1000, 5_000, minutes, 5 * minutes, 60 * minutes, 3 * 60 * minutes, 72 * 60 * minutes];
        let words = told.map(human).join(", ");
        assert_eq!(
            words,
            "Less than a second, 1 second, 5 seconds, About a minute, 5 minutes, About an hour, 3 hours, 3 days"
        );
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
    }
}
