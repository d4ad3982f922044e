//! Any text as config.json: an error, or numbers that are in order.
#![no_main]

use gpt_oss_export::checkpoint::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok((config, _)) = Config::read("config.json", text, &[]) {
        config.check("config.json").expect("what is read has been checked");
        let [low, high] = config.rope.bounds(config.head_dim);
        assert!(low.is_finite() && high.is_finite());
    }
});
