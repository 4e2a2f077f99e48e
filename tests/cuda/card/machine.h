// The functions of `kernels/machine.cuh` for a processor, after PTX's description of each instruction.
#pragma once

#define dynamic ((float *)card::self().block->shared)

// Each lane gets two numbers of each tile: of row lane / 4 those from column 2 * (lane % 4) on, or, turned,
// of column lane / 4 those from row 2 * (lane % 4) on. Lane 8 * i + j has given row j of tile i.
inline void load_tiles(uint32_t (&r)[4], const Half *row, bool turned) {
    card::check((uintptr_t)row % 16 == 0, "a row of `ldmatrix` does not begin at 16 bytes");
    card::Slot &slot = card::slot();
    slot.tiles.row = row;
    card::wait_for_warp(turned ? card::load_turned : card::load);
    memcpy(r, slot.tiles.got, sizeof r);
}

inline void load_four(uint32_t (&r)[4], const Half *row) { load_tiles(r, row, false); }
inline void load_four_turned(uint32_t (&r)[4], const Half *row) { load_tiles(r, row, true); }

// Lane 4 * g + t has of `a` rows g and g + 8, columns 2t and 2t + 1, and the same columns + 8; of `b` those
// numbers of column g; of `c` rows g and g + 8, columns 2t and 2t + 1.
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    card::Slot &slot = card::slot();
    memcpy(slot.product.a, a, sizeof a);
    slot.product.b[0] = b0, slot.product.b[1] = b1;
    memcpy(slot.product.c, c, sizeof c);
    card::wait_for_warp(card::multiply);
    memcpy(c, slot.product.c, sizeof c);
}

// What is copied is there when it is waited for, and not before.
inline void copy_ahead(Half *to, const Half *from, bool there) {
    card::check((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0, "`cp.async` not at 16 bytes");
    card::self().copies.push_back({to, there ? from : nullptr});
}

inline void copy_ahead_cached(Half *to, const Half *from, bool there) { copy_ahead(to, from, there); }

inline void end_copies() {
    card::Thread &self = card::self();
    self.groups.push_back(self.copies.size());
}

template <int LAST> inline void wait_for_copies() { card::copy(LAST); }
