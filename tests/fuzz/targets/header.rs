#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: (u64, &[u8])| {
    let (length, text) = input;
    checks::header(text, length);
    // A length near that of the header.
    checks::header(text, 8 + text.len() as u64 + (length & 0xffff));
});
