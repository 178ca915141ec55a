//! What is changed in files that name their old place, or would be stale in the new one: one table,
//! whoever applies it.
//!
//! Some edits are the same wherever the tree will lie, and are made when it is packed. The others
//! need to know the place: the tree holds a list of them ([`EDITS`]), with the offset of each, so
//! that whoever unpacks or mounts it decides nothing and need not look into a file to know its size.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::splice::{Splice, Spliced};
use crate::archive::place::MTIME;

/// Of text, before and after; and of the list. What is longer is none that anybody installed.
pub(crate) const LARGEST_TEXT: u64 = 64 << 20;
/// Of the list; the first one named no offsets, and is read by [`super::first_list`].
const VERSION: u32 = 2;

/// One change to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// A list of directories that the loader searches, with NUL up to its old end.
    SearchPath {
        at: u64,
        room: usize,
        directories: String,
    },
    /// The time of the source in a `.pyc`.
    Time { at: u64 },
    /// How a script finds its interpreter: lines in the place of its first bytes.
    Shebang { length: u64, lines: Vec<u8> },
    /// An old prefix in a text, which may get longer or shorter.
    Text { at: u64, length: u64 },
    /// A string in a binary.
    Field(Field),
}

/// A string in a binary, with NUL up to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The file, below the root.
    pub path: String,
    /// Where in the file.
    pub offset: u64,
    /// Bytes, without the NUL that ends the longest string.
    pub length: u64,
    /// What is between one naming of the prefix and the next.
    pub pieces: Vec<String>,
}

impl Field {
    /// The bytes to put there for another prefix, or nothing if there is no room for it.
    pub fn bytes(&self, prefix: &str) -> Option<Vec<u8>> {
        let length = usize::try_from(self.length).ok()?;
        let gaps = self.pieces.len().saturating_sub(1);
        let named = self.pieces.iter().map(String::len).sum::<usize>() + gaps * prefix.len();
        (named <= length).then(|| {
            let mut bytes = self.pieces.join(prefix).into_bytes();
            bytes.resize(length, 0);
            bytes
        })
    }
}

impl Edit {
    /// What becomes of which bytes where the tree lies at `prefix`; nothing if there is no room.
    fn splice(&self, prefix: &str) -> Option<Splice> {
        let (at, length, bytes) = match self {
            Self::SearchPath {
                at,
                room,
                directories,
            } => {
                let mut bytes = directories.clone().into_bytes();
                bytes.resize(*room, 0);
                (*at, *room as u64, bytes)
            }
            Self::Time { at } => {
                let time = u32::try_from(MTIME).expect("before 2106").to_le_bytes();
                (*at, time.len() as u64, time.to_vec())
            }
            Self::Shebang { length, lines } => (0, *length, lines.clone()),
            Self::Text { at, length } => (*at, *length, prefix.as_bytes().to_vec()),
            Self::Field(field) => (field.offset, field.length, field.bytes(prefix)?),
        };
        Some(Splice { at, length, bytes })
    }
}

/// Those that are the same at every place, of a file of this size.
pub(super) fn placeless(edits: &[Edit], size: u64) -> Option<Spliced> {
    let splices = edits.iter().map(|edit| edit.splice(""));
    Spliced::new(splices.collect::<Option<_>>()?, size)
}

/// Why the edits of a file cannot be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// They lie on each other, or behind the file's end.
    Apart,
    /// A text that names the prefix over and over.
    TooLong,
}

/// The edits of a tree that depend on its place, by file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// As the files call it; for sentences alone.
    pub(crate) old: String,
    pub(crate) files: BTreeMap<String, Vec<Edit>>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct List {
    version: u32,
    old: String,
    text: Vec<Text>,
    binary: Vec<Field>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    path: String,
    /// Where, and how many bytes.
    at: Vec<(u64, u64)>,
}

impl Edits {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut list = List {
            version: VERSION,
            old: self.old.clone(),
            text: Vec::new(),
            binary: Vec::new(),
        };
        for (path, edits) in &self.files {
            let mut at = Vec::new();
            for edit in edits {
                match edit {
                    Edit::Text { at: offset, length } => at.push((*offset, *length)),
                    Edit::Field(field) => list.binary.push(field.clone()),
                    // Made when the file was packed.
                    Edit::SearchPath { .. } | Edit::Time { .. } | Edit::Shebang { .. } => {}
                }
            }
            if !at.is_empty() {
                let path = path.clone();
                list.text.push(Text { path, at });
            }
        }
        serde_json::to_vec(&list).expect("text and numbers")
    }

    /// Or why it is no list.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let list: List = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if list.version != VERSION {
            return Err(format!(
                "its version is {}, and not {VERSION}",
                list.version
            ));
        }
        let mut files: BTreeMap<String, Vec<Edit>> = BTreeMap::new();
        for Text { path, at } in list.text {
            let edits = at.into_iter().map(|(at, length)| Edit::Text { at, length });
            files.entry(path).or_default().extend(edits);
        }
        for field in list.binary {
            let edits = files.entry(field.path.clone()).or_default();
            edits.push(Edit::Field(field));
        }
        let old = list.old;
        Ok(Self { old, files })
    }

    /// What becomes of a file of this size where the tree lies at `prefix`; and what stays as it was
    /// since there is no room, in a sentence.
    pub(crate) fn spliced(
        &self,
        path: &str,
        prefix: &str,
        size: u64,
    ) -> Result<(Spliced, Option<String>), Unfit> {
        let edits = self.files.get(path).map_or(&[][..], Vec::as_slice);
        // What they say of the file is held to it before memory is asked for.
        for edit in edits {
            let (at, length) = match edit {
                Edit::Text { at, length } => (*at, *length),
                Edit::Field(field) => (field.offset, field.length),
                _ => continue,
            };
            if at.checked_add(length).is_none_or(|end| end > size) {
                return Err(Unfit::Apart);
            }
        }
        let texts = edits
            .iter()
            .filter(|edit| matches!(edit, Edit::Text { .. }));
        let more = (texts.count() as u64).saturating_mul(prefix.len() as u64);
        if more > 0 && size.saturating_add(more) > LARGEST_TEXT {
            return Err(Unfit::TooLong);
        }
        let splices: Vec<Splice> = edits
            .iter()
            .filter_map(|edit| edit.splice(prefix))
            .collect();
        let left = (splices.len() < edits.len()).then(|| {
            format!(
                "`{path}` still names `{}`: there is no room for `{prefix}`",
                self.old
            )
        });
        let spliced = Spliced::new(splices, size).ok_or(Unfit::Apart)?;
        Ok((spliced, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(edits: &[Edit], old: &[u8]) -> Vec<u8> {
        let spliced = placeless(edits, old.len() as u64).expect("they fit");
        spliced.whole(old)
    }

    #[test]
    fn a_search_path_keeps_its_length() {
        let edit = Edit::SearchPath {
            at: 2,
            room: 8,
            directories: "$ORIGIN".to_owned(),
        };
        assert_eq!(applied(&[edit], b"x\0/opt/lib\0y"), b"x\0$ORIGIN\0\0y");
    }

    #[test]
    fn a_time_is_that_of_every_file() {
        let edited = applied(&[Edit::Time { at: 4 }], &[7; 16]);
        assert_eq!(edited[..4], [7; 4]);
        assert_eq!(edited[4..8], 1_577_836_800_u32.to_le_bytes());
        assert_eq!(edited[8..], [7; 8]);
    }

    #[test]
    fn a_shebang_may_get_longer() {
        let edit = Edit::Shebang {
            length: 5,
            lines: b"#!/bin/sh\nx\n".to_vec(),
        };
        assert_eq!(applied(&[edit], b"#!/x\nrest"), b"#!/bin/sh\nx\nrest");
    }

    fn edits(path: &str, edits: Vec<Edit>) -> Edits {
        Edits {
            old: "/old".to_owned(),
            files: [(path.to_owned(), edits)].into(),
        }
    }

    #[test]
    fn texts_follow_the_place() {
        let old = b"a=/old/x:/old";
        let table = edits(
            "a",
            vec![
                Edit::Text { at: 2, length: 4 },
                Edit::Text { at: 9, length: 4 },
            ],
        );
        assert_eq!(Edits::decode(&table.encode()).as_ref(), Ok(&table));
        let (spliced, left) = table.spliced("a", "/somewhere", 13).expect("they fit");
        assert_eq!(spliced.whole(old), b"a=/somewhere/x:/somewhere");
        assert_eq!(left, None);
        // A file that is not in the list stays what it is.
        let (spliced, _) = table.spliced("b", "/somewhere", 13).expect("they fit");
        assert_eq!(spliced.whole(old), old);
    }

    #[test]
    fn fields_follow_the_place_as_far_as_there_is_room() {
        let field = |offset| Field {
            path: "a".to_owned(),
            offset,
            length: 12,
            pieces: vec![String::new(), "/x".to_owned()],
        };
        let table = edits("a", vec![Edit::Field(field(1)), Edit::Field(field(14))]);
        assert_eq!(Edits::decode(&table.encode()).as_ref(), Ok(&table));
        let old = b"1/old/x\0\0\0\0\0\0\0/old/x\0\0\0\0\0\0\0";
        let (spliced, left) = table.spliced("a", "/new", 27).expect("they fit");
        assert_eq!(
            spliced.whole(old),
            b"1/new/x\0\0\0\0\0\0\0/new/x\0\0\0\0\0\0\0"
        );
        assert_eq!(left, None);
        let (spliced, left) = table.spliced("a", "/longer/than", 27).expect("they fit");
        assert_eq!(spliced.whole(old), old);
        assert_eq!(
            left.expect("a sentence"),
            "`a` still names `/old`: there is no room for `/longer/than`"
        );
    }

    #[test]
    fn what_does_not_fit_the_file_is_refused() {
        let text = |at, length| Edit::Text { at, length };
        for hostile in [
            vec![text(9, 4)],
            vec![text(u64::MAX, 4)],
            vec![text(0, 4), text(0, 4)],
            vec![text(0, 4), text(3, 4)],
        ] {
            let table = edits("a", hostile);
            assert_eq!(table.spliced("a", "/new", 10).err(), Some(Unfit::Apart));
        }
        let many = edits("a", (0..100_000).map(|at| text(at, 0)).collect());
        let long = "x".repeat(4_000);
        assert_eq!(
            many.spliced("a", &long, 100_000).err(),
            Some(Unfit::TooLong)
        );
        assert!(Edits::decode(b"{}").is_err());
        let newer = br#"{"version":3,"old":"","text":[],"binary":[]}"#;
        assert!(
            Edits::decode(newer)
                .expect_err("refused")
                .contains("version is 3")
        );
    }
}
