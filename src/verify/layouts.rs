//! The layouts that an archive's objects were made with: what their names tell, whether their records are a row each, how their
//! rows are counted.

use super::read::Reader;
use crate::bucket::BucketError;
use crate::exit::Failure;
use crate::layout::recognise::Recogniser;
use crate::layout::{Layout, OutputLayout, Place};
use crate::pipeline::archive::DEAD_LETTERS;
use crate::pipeline::start::{chain, patiently};
use std::collections::HashMap;
use std::sync::Arc;

/// Most layouts of one archive that are kept in mind. Objects of further ones are looked for where their receipts name them; what
/// nobody vouches for is not recognised by their names.
pub(super) const LAYOUTS_MAX: usize = 256;

/// An output's names.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) output: String,
    pub(super) place: Place,
    pub(super) recogniser: Recogniser,
}

/// The layouts of one archive by fingerprint.
#[derive(Default)]
pub(super) struct Layouts {
    known: HashMap<String, Option<Arc<Layout>>>,
    /// The outputs of all of them, each once.
    pub(super) names: Vec<Names>,
    /// Why layouts could not be read, each once.
    pub(super) troubles: Vec<String>,
}

impl Layouts {
    /// Takes in a layout.
    pub(super) fn add(&mut self, fingerprint: String, layout: Arc<Layout>) {
        let of_output =
            |output: &OutputLayout| (output.name.clone(), output.place.clone(), output.place.extension(&output.format));
        let dead = &layout.dead_letters;
        let letters = (DEAD_LETTERS.to_string(), dead.place.clone(), dead.extension());
        for (output, place, extension) in layout.outputs.iter().map(of_output).chain([letters]) {
            // Places without destinations, as layouts of dead letters that are dropped, have no objects.
            match Recogniser::compile(&place, &output, &extension, layout.generation) {
                Ok(recogniser) => {
                    let is_known = self.names.iter().any(|names| {
                        names.output == output && names.place == place && names.recogniser.is_same(&recogniser)
                    });
                    if !is_known {
                        self.names.push(Names { output, place, recogniser });
                    }
                }
                Err(error) => self.troubles.push(format!("layout {fingerprint}, output {output}: {error}")),
            }
        }
        self.known.insert(fingerprint, Some(layout));
    }

    /// The layout with that fingerprint; `None`: nobody can read it, which is told once.
    ///
    /// # Errors
    /// A store that refuses or does not answer.
    pub(super) async fn get(&mut self, reader: &Reader, fingerprint: &str) -> Result<Option<Arc<Layout>>, Failure> {
        if let Some(known) = self.known.get(fingerprint) {
            return Ok(known.clone());
        }
        if self.known.len() >= LAYOUTS_MAX {
            return Ok(None);
        }
        let attempt = || async {
            match reader.bucket.get_layout(fingerprint).await {
                Ok(layout) => Ok(Ok(layout)),
                Err(
                    error @ (BucketError::Layout { .. } | BucketError::Unreadable { .. } | BucketError::Newer { .. }),
                ) => Ok(Err(error)),
                Err(error) => Err(error),
            }
        };
        match patiently(&*reader.clock, &format!("layout {fingerprint}"), attempt).await? {
            Ok(layout) => self.add(fingerprint.to_string(), Arc::new(layout)),
            Err(error) => {
                self.troubles.push(chain(&error));
                self.known.insert(fingerprint.to_string(), None);
            }
        }
        Ok(self.known.get(fingerprint).cloned().flatten())
    }

    /// The layout with that fingerprint, where it was read before.
    pub(super) fn read_before(&self, fingerprint: &str) -> Option<&Arc<Layout>> {
        self.known.get(fingerprint)?.as_ref()
    }
}

/// What reads the keys of the objects that batches with this layout have, those of dead letters among them, and the ids of the destinations they have these at.
pub fn recognisers(layout: &Layout) -> Vec<(Vec<String>, Recogniser)> {
    let mut layouts = Layouts::default();
    layouts.add(String::new(), Arc::new(layout.clone()));
    layouts.names.into_iter().map(|names| (names.place.destinations, names.recogniser)).collect()
}

/// Whether each record that an output archives is exactly one row there.
pub(super) fn is_row_each(layout: &Layout) -> bool {
    layout.transform.is_none() && !layout.decode.unfolds()
}
