//! Lists of files that name a conda prefix: as JSON, and as what JSON can say.
#![no_main]

use htmap_exec_fuzz::directory;
use htmap_exec_transplant::{Field, Prefixes, fuzzing};
use libfuzzer_sys::{arbitrary, fuzz_target};

const PATHS: [&str; 10] = [
    "a",
    "b",
    "conda-meta/c",
    "l",
    "m",
    "d/outside",
    "../outside",
    "n/c",
    "/etc/no",
    "a/",
];

#[derive(Debug, arbitrary::Arbitrary)]
enum Path<'a> {
    Known(u8),
    Any(&'a str),
}

impl Path<'_> {
    fn text(&self) -> String {
        match self {
            Self::Known(at) => PATHS[usize::from(*at) % PATHS.len()].to_owned(),
            Self::Any(text) => (*text).to_owned(),
        }
    }
}

#[derive(Debug, arbitrary::Arbitrary)]
struct Place<'a> {
    path: Path<'a>,
    offset: u64,
    small: u8,
    length: u64,
    short: bool,
    pieces: Vec<&'a str>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum List<'a> {
    Json(&'a [u8]),
    Made {
        old: &'a str,
        text: Vec<Path<'a>>,
        binary: Vec<Place<'a>>,
    },
}

fuzz_target!(|input: (List, &[u8], &str)| {
    let list = match &input.0 {
        List::Json(json) => json.to_vec(),
        List::Made { old, text, binary } => fuzzing::prefixes_of(&Prefixes {
            old: format!("/{old}"),
            text: text.iter().map(Path::text).collect(),
            binary: binary
                .iter()
                .map(|place| Field {
                    path: place.path.text(),
                    offset: if place.short {
                        u64::from(place.small)
                    } else {
                        place.offset
                    },
                    length: if place.short {
                        place.length % 300
                    } else {
                        place.length
                    },
                    pieces: place.pieces.iter().map(|&piece| piece.to_owned()).collect(),
                })
                .collect(),
        }),
    };
    fuzzing::prefixes(directory(), &list, input.1, input.2);
});
