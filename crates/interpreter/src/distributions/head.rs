//! The fields at the head of a distribution's metadata.

use std::io::{self, Read};

/// The fields of a metadata file: names in lower case, and values.
pub(super) type Head = Vec<(String, String)>;

/// The header fields: all that is asked for stands in the first few lines.
pub(super) fn read(mut file: impl Read) -> io::Result<Head> {
    const MOST: u64 = 64 << 10;
    let mut text = Vec::with_capacity(4 << 10);
    loop {
        let before = text.len();
        file.by_ref().take(4 << 10).read_to_end(&mut text)?;
        let complete = ["Name:", "Version:"].iter().all(|field| {
            text.windows(field.len())
                .any(|part| part.eq_ignore_ascii_case(field.as_bytes()))
        });
        if text.len() == before || complete && text.ends_with(b"\n") || text.len() as u64 > MOST {
            break;
        }
        if complete && text.len() > 1 << 10 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<(String, String)> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let has = |wanted: &str| {
        fields
            .iter()
            .any(|(name, value)| name == wanted && !value.is_empty())
    };
    if has("name") && has("version") {
        Ok(fields)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}
