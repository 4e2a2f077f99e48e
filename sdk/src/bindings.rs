//! What `wit/` says, as Rust.
//!
//! Each kind has a world of its own, so that a component exports exactly what its author's macro
//! names; all of them share the types of [`common`]. The documentation of every type is that of the
//! contract.

/// The types and the log, which every kind imports.
pub mod common {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package aligner:sdk;
            world common {
                import aligner:plugin/log@0.1.1;
                import aligner:plugin/types@0.1.1;
                import aligner:plugin/verdicts@0.1.1;
            }
        ",
        additional_derives: [PartialEq],
        generate_all,
        generate_unused_types: true,
    });
}

macro_rules! exported {
    ($module:ident, $export:literal, $world:literal $(, $shared:literal: $path:path)*) => {
        /// An interface that components export, and the macro that exports it.
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                inline: $world,
                with: {
                    "aligner:plugin/types@0.1.1": crate::bindings::common::aligner::plugin::types,
                    $($shared: $path,)*
                },
                additional_derives: [PartialEq],
                generate_all,
                pub_export_macro: true,
                export_macro_name: $export,
            });
        }
    };
}

exported!(
    meta,
    "__export_meta",
    "package aligner:sdk; world only-meta { export aligner:plugin/meta@0.1.1; }"
);
exported!(
    principle,
    "__export_principle",
    "package aligner:sdk; world only-principle { export aligner:plugin/principle@0.1.1; }"
);
exported!(
    sampler,
    "__export_sampler",
    "package aligner:sdk; world only-sampler { export aligner:plugin/sampler@0.1.1; }"
);
exported!(
    prompt_writer,
    "__export_prompt_writer",
    "package aligner:sdk; world only-prompt-writer { export aligner:plugin/prompt-writer@0.1.1; }"
);
exported!(
    filter,
    "__export_filter",
    "package aligner:sdk; world only-filter { export aligner:plugin/filter@0.1.1; }",
    "aligner:plugin/verdicts@0.1.1": crate::bindings::common::aligner::plugin::verdicts
);
exported!(
    set_filter,
    "__export_set_filter",
    "package aligner:sdk; world only-set-filter { export aligner:plugin/set-filter@0.1.1; }",
    "aligner:plugin/verdicts@0.1.1": crate::bindings::common::aligner::plugin::verdicts
);
exported!(
    judge,
    "__export_judge",
    "package aligner:sdk; world only-judge { export aligner:plugin/judge@0.1.1; }"
);
exported!(
    difficulty,
    "__export_difficulty",
    "package aligner:sdk; world only-difficulty { export aligner:plugin/difficulty@0.1.1; }"
);
