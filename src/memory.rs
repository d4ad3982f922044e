//! Memory as Linux reports it, in bytes; `None` elsewhere.

/// The most that this process had at once, mapped files included.
pub fn peak_rss() -> Option<u64> {
    read("/proc/self/status", "VmHWM:")
}

/// What this process has of its own now, without mapped files.
pub fn own_rss() -> Option<u64> {
    read("/proc/self/status", "RssAnon:")
}

/// What new allocations can have without swapping.
pub fn available() -> Option<u64> {
    read("/proc/meminfo", "MemAvailable:")
}

fn read(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
