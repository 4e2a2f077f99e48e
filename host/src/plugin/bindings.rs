//! The contract as Rust types, made from `wit/` at compile time.
//!
//! One world that imports what the host gives and exports every interface. No component has to
//! export all of it: each interface is looked up by itself, in `load`.

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package aligner:host;
        world everything {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/principle@0.1.1;
            export aligner:plugin/sampler@0.1.1;
            export aligner:plugin/prompt-writer@0.1.1;
            export aligner:plugin/filter@0.1.1;
            export aligner:plugin/set-filter@0.1.1;
            export aligner:plugin/judge@0.1.1;
            export aligner:plugin/difficulty@0.1.1;
        }
    ",
    world: "aligner:host/everything",
    imports: { default: trappable },
    // What goes in is borrowed from the host's records: no text is copied but into the guest.
    ownership: Borrowing { duplicate_if_necessary: true },
});
