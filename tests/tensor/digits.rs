//! Digits of MXFP4 compared with what they stand for: twice an E2M1 value is `4·high + low`.

use gpt_oss_export::tensor::ints::{digits, join};
use gpt_oss_export::tensor::mxfp4::{Block, LARGEST_SCALE};

/// Twice the magnitudes of E2M1, by its definition: 0, ½, 1, 1½, 2, 3, 4 and 6.
const TWICE: [i32; 8] = [0, 1, 2, 3, 4, 6, 8, 12];

/// Every code in both halves of a byte, under every scale.
#[test]
fn digits_are_the_values() {
    let codes = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe];
    let turned = codes.map(|byte: u8| byte.rotate_left(4));
    let codes: [u8; 16] = [codes, turned].concat().try_into().unwrap();
    for scale in 0..=LARGEST_SCALE {
        let block = Block { scale, codes };
        let [high, low] = digits(&block);
        let power = 2f64.powi(i32::from(scale) - 127);
        assert_eq!([high.scale, low.scale].map(f64::from), [2.0 * power, power / 2.0]);
        let joined = join([(&high.codes, high.scale), (&low.codes, low.scale)]);
        for at in 0..32 {
            let nibble = |bytes: &[u8; 16]| i32::from(bytes[at / 2] >> (4 * (at % 2)) & 15);
            let (code, high, low) =
                (nibble(&codes), nibble(&high.codes) - 8, nibble(&low.codes) - 8);
            let sign = if code < 8 { 1 } else { -1 };
            let twice = sign * TWICE[code as usize & 7];
            assert_eq!(4 * high + low, twice, "{code:x}");
            // Terms of one sign never cancel, and -8 has no counterpart.
            assert!(high * low >= 0 && high.abs().max(low.abs()) < 4, "{code:x}");
            assert_eq!(f64::from(joined[at]), f64::from(twice) / 2.0 * power, "{code:x}");
        }
    }
}
