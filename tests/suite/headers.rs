//! Headers of SafeTensors files.

use std::path::Path;

use gpt_oss_export::container::{ALIGNMENT, Header, lay_out};
use gpt_oss_export::tensor::DType;
use proptest::prelude::*;

const DTYPE: [DType; 4] = [DType::U8, DType::BF16, DType::F32, DType::I64];

proptest! {
    #[test]
    fn reads_back_laid_out_headers(
        tensors in prop::collection::btree_map(
            "[a-z.\"\\\\é]{1,12}",
            (0usize..4, prop::collection::vec(0u64..70, 0..4)),
            0..20,
        ),
        metadata in ".*",
    ) {
        let tensors: Vec<_> = tensors.iter().map(|(name, (dtype, shape))| (&**name, DTYPE[*dtype], &shape[..])).collect();
        let (header_bytes, ranges) = lay_out(metadata.clone(), &tensors);
        prop_assert_eq!(header_bytes.len() as u64 % ALIGNMENT, 0);
        let end = ranges.last().map_or(header_bytes.len() as u64, |range| range.end);
        let header = Header::parse(Path::new("x"), &header_bytes[8..], end).unwrap();
        prop_assert_eq!(header.metadata, Some(metadata));
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for ((name, dtype, shape), range) in tensors.iter().zip(ranges) {
            let found = header.tensors.iter().find(|tensor| tensor.name == *name).unwrap();
            prop_assert_eq!((found.dtype, &found.shape[..]), (*dtype, *shape));
            prop_assert_eq!(&found.data.range, &range);
        }
    }
}
