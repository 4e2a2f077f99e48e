// Blocks of threads on a processor. The threads of a block are fibers of one thread of the machine: each runs until
// it waits for its warp or its block. In between their order is one of many, which a number chooses: where a
// kernel lacks a barrier, another order gives other numbers.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace card {

constexpr int WARP = 32, MOST_THREADS = 1024;

struct Index {
    unsigned x, y, z;
};

// What a lane gives to and gets from an instruction of its whole warp.
union Slot {
    struct {
        uint64_t given, got;
        int lane;
    } shuffle;
    struct {
        const void *row;
        uint32_t got[4];
    } tiles;
    struct {
        uint32_t a[4], b[2];
        float c[4];
    } product;
};

// An instruction of a warp, done when all lanes have come to it.
typedef void Instruction(Slot (&slots)[WARP]);
Instruction nothing, shuffle, load, load_turned, multiply;

struct Block;

// 16 bytes on their way into shared memory; zeros where they come from nowhere.
struct Copy {
    void *to;
    const void *from;
};

enum class State { RUNS, WAITS_FOR_WARP, WAITS_FOR_BLOCK, DONE };

struct Thread {
    Block *block;
    Slot *slot;
    Index index;
    int lane;
    State state;
    Instruction *instruction;
    // Where its stack was left.
    void *place;
    // Who runs when this one waits or ends: another lane of its warp; nobody after the last.
    Thread *then;
    // Copies that nobody has waited for, and where each group of them ends.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
};

// The block that runs on this thread of the machine, with the room of all its threads.
struct alignas(64) Block {
    Index grid, threads, index;
    const char *kernel;
    void (*body)(void **arguments);
    void **arguments;
    unsigned char *shared;
    // Chooses the order of threads; 0 is their own.
    uint64_t order;
    // Why the kernel failed.
    const char *failure;
    void *home;
    Thread all[MOST_THREADS];
    Slot slots[MOST_THREADS / WARP][WARP];

    // Runs all threads to their end; returns whether that came to be.
    bool run();

  private:
    bool run_warp(int warp, int count);
    uint64_t next();
};

// The thread that runs.
extern thread_local Thread *current;
inline Thread &self() { return *current; }
inline Slot &slot() { return *self().slot; }

void wait_for_warp(Instruction *instruction);
void wait_for_block();
// Does the copies of this thread but those of its last groups.
void copy(size_t last);
// Ends the kernel with a failure where something does not hold.
void fail(const char *failure);
inline void check(bool holds, const char *failure) {
    if (!holds) fail(failure);
}

// Makes a block with fibers for all its threads, and takes it away.
Block *make_block();
void end_block(Block *block);

} // namespace card
