// How the threads of a block take turns, and what the instructions of a warp do.
#include "block.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace card {

thread_local Thread *current;

// Not a power of two, so that the stacks of a warp lie in different places of the cache.
constexpr size_t STACK = (64 << 10) + 1088;

// Leaves one stack at the place that is written to `from`, and goes on where another was left. A function's
// own registers lie on its stack meanwhile.
extern "C" void card_switch(void **from, void *to);
#ifndef __x86_64__
#error "this card is for x86-64, as NVIDIA's compiler in tests/bench-cuda/toolkit"
#endif
asm(R"(
.text
.hidden card_switch
card_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

static void leave(State state) {
    Thread &thread = *current, *then = thread.then;
    thread.state = state;
    if (then) current = then;
    card_switch(&thread.place, then ? then->place : thread.block->home);
}

void wait_for_warp(Instruction *instruction) {
    current->instruction = instruction;
    leave(State::WAITS_FOR_WARP);
}

void wait_for_block() { leave(State::WAITS_FOR_BLOCK); }

void copy(size_t last) {
    Thread &thread = *current;
    if (thread.groups.size() <= last) return;
    size_t groups = thread.groups.size() - last, copies = thread.groups[groups - 1];
    for (size_t i = 0; i < copies; i++) {
        Copy &copy = thread.copies[i];
        copy.from ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
    }
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + copies);
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + groups);
    for (size_t &end : thread.groups) end -= copies;
}

void fail(const char *failure) {
    current->block->failure = failure;
    current->then = nullptr;
    leave(State::DONE);
    abort(); // Nobody goes on with it.
}

// A fiber is one thread of a block after the other.
static void fiber() {
    for (;;) {
        current->block->body(current->block->arguments);
        leave(State::DONE);
    }
}

constexpr size_t ROOM = sizeof(Block) + MOST_THREADS * STACK;

Block *make_block() {
    void *room = mmap(nullptr, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) abort();
    Block *block = new (room) Block;
    for (int i = 0; i < MOST_THREADS; i++) {
        Thread &thread = block->all[i];
        thread.block = block, thread.lane = i % WARP, thread.slot = &block->slots[i / WARP][i % WARP];
        // As `card_switch` leaves a stack: six registers, and where to go on; a multiple of 16 bytes and 8 are left.
        void **end = (void **)((uintptr_t)(block + 1) + (i + 1) * STACK);
        thread.place = end - 8;
        memset(thread.place, 0, 8 * sizeof *end);
        end[-2] = (void *)fiber;
    }
    return block;
}

void end_block(Block *block) {
    block->~Block();
    munmap(block, ROOM);
}

// Lets a thread run until it waits or ends, and then those after it.
static void enter(Thread &thread) {
    current = &thread;
    card_switch(&thread.block->home, thread.place);
}

uint64_t Block::next() {
    order ^= order << 13, order ^= order >> 7, order ^= order << 17;
    return order;
}

// Lets the threads of a warp run until all wait for the block or have ended, or the warp has done an instruction
// and another's turn has come. Returns whether any ran.
bool Block::run_warp(int warp, int count) {
    Thread *lanes = all + warp * WARP;
    bool any = false;
    for (;;) {
        uint64_t draw = order ? next() : 0;
        // Every number of the form from + step * i, with an odd step, comes once.
        unsigned from = draw & 31, step = order ? draw >> 5 | 1 : 1;
        Thread *first = nullptr, **next = &first;
        for (unsigned i = 0; i < WARP; i++) {
            int lane = (from + step * i) & 31;
            if (lane >= count || lanes[lane].state != State::RUNS) continue;
            *next = &lanes[lane], next = &lanes[lane].then;
        }
        *next = nullptr;
        if (first) enter(*first), any = true;
        if (failure) return false;
        int waiting = 0;
        Instruction *instruction = nullptr;
        for (int lane = 0; lane < count; lane++) {
            if (lanes[lane].state != State::WAITS_FOR_WARP) continue;
            if (instruction && lanes[lane].instruction != instruction) {
                failure = "the lanes of a warp have come to different instructions";
                return false;
            }
            waiting++, instruction = lanes[lane].instruction;
        }
        if (waiting == 0) return any;
        if (waiting < WARP) {
            failure = "an instruction of a warp without all its lanes";
            return false;
        }
        instruction(slots[warp]);
        for (int lane = 0; lane < WARP; lane++) lanes[lane].state = State::RUNS;
        any = true;
        if (order && draw >> 63) return true;
    }
}

bool Block::run() {
    int count = threads.x * threads.y * threads.z, warps = (count + WARP - 1) / WARP;
    failure = nullptr;
    for (int i = 0; i < count; i++) {
        Thread &thread = all[i];
        thread.index = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
        thread.state = State::RUNS;
        thread.copies.clear(), thread.groups.clear();
    }
    int turns[MOST_THREADS / WARP];
    for (int i = 0; i < warps; i++) turns[i] = i;
    for (;;) {
        // Until all wait for the block or have ended.
        for (bool any = true; any;) {
            any = false;
            if (order)
                for (int i = warps - 1; i > 0; i--) std::swap(turns[i], turns[next() % (i + 1)]);
            for (int i = 0; i < warps; i++) {
                any |= run_warp(turns[i], std::min(WARP, count - turns[i] * WARP));
                if (failure) return false;
            }
        }
        bool done = true;
        for (int i = 0; i < count; i++) {
            if (all[i].state != State::WAITS_FOR_BLOCK) continue;
            all[i].state = State::RUNS, done = false;
        }
        if (done) return true;
    }
}

void nothing(Slot (&)[WARP]) {}

void shuffle(Slot (&slots)[WARP]) {
    for (Slot &slot : slots) slot.shuffle.got = slots[slot.shuffle.lane].shuffle.given;
}

// The number in a tile's row and column.
static uint16_t number(Slot (&slots)[WARP], int tile, int row, int column) {
    uint16_t bits;
    memcpy(&bits, (const uint16_t *)slots[8 * tile + row].tiles.row + column, sizeof bits);
    return bits;
}

void load(Slot (&slots)[WARP]) {
    for (int lane = 0; lane < WARP; lane++)
        for (int tile = 0; tile < 4; tile++) {
            int row = lane / 4, column = 2 * (lane % 4);
            uint32_t low = number(slots, tile, row, column), high = number(slots, tile, row, column + 1);
            slots[lane].tiles.got[tile] = low | high << 16;
        }
}

void load_turned(Slot (&slots)[WARP]) {
    for (int lane = 0; lane < WARP; lane++)
        for (int tile = 0; tile < 4; tile++) {
            int row = 2 * (lane % 4), column = lane / 4;
            uint32_t low = number(slots, tile, row, column), high = number(slots, tile, row + 1, column);
            slots[lane].tiles.got[tile] = low | high << 16;
        }
}

// The two numbers in bf16 of a register.
static void widen(uint32_t both, float &low, float &high) {
    uint32_t bits[2] = {both << 16, both & 0xffff0000};
    memcpy(&low, &bits[0], sizeof low);
    memcpy(&high, &bits[1], sizeof high);
}

// Terms are exact, and a sum is rounded for each of them; what a card rounds is its own affair.
void multiply(Slot (&slots)[WARP]) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        auto &own = slots[lane].product;
        int g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < 4; i++) {
            int row = g + i % 2 * 8, column = t + i / 2 * 8;
            widen(own.a[i], a[row][column], a[row][column + 1]);
        }
        for (int i = 0; i < 2; i++) widen(own.b[i], b[t + 8 * i][g], b[t + 8 * i + 1][g]);
        for (int i = 0; i < 4; i++) c[g + i / 2 * 8][t + i % 2] = own.c[i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) c[row][n] += a[row][k] * b[k][n];
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++)
            slots[lane].product.c[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

} // namespace card
