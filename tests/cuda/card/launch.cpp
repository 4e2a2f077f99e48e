// The kernels of the sources for the driver that stands in for NVIDIA's (`driver.c`).
#include "kernels.cu"

#include "launch.h"

#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <utility>

namespace card {

// Calls a kernel with arguments that the driver was given.
template <typename... Each, size_t... I>
static void call(void (*kernel)(Each...), void **arguments, std::index_sequence<I...>) {
    kernel(*(Each *)arguments[I]...);
}

template <typename... Each> static void call(void (*kernel)(Each...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<Each...>());
}

template <typename... Each> static constexpr unsigned count(void (*)(Each...)) { return sizeof...(Each); }

// `names.h` is written from the list of the program.
static const struct kernel KERNELS[] = {
#define KERNEL_NAMED(name) {#name, [](void **arguments) { call(::name, arguments); }, count(::name)},
#include "names.h"
};

// The largest dynamic shared memory of a block, with a page before and after that nobody may touch.
constexpr size_t PAGE_BYTES = 4096, SHARED = 228 << 10;

// Says which kernel it is that reads or writes where it must not, and lets the program end as it would.
static void crashed(int signal) {
    const Block *block = current ? current->block : nullptr;
    if (block && block->kernel)
        fprintf(stderr, "the stand-in for a card: kernel `%s`, block (%u, %u, %u), thread %d: no such memory\n",
                block->kernel, block->index.x, block->index.y, block->index.z, int(current - block->all));
    ::signal(signal, SIG_DFL);
}

// What a thread of the machine keeps from launch to launch.
struct Processor {
    Block *block;
    unsigned char *shared;

    Processor() : block(make_block()) {
        size_t bytes = SHARED + 2 * PAGE_BYTES;
        void *room = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        shared = (unsigned char *)room + PAGE_BYTES;
        if (room == MAP_FAILED || mprotect(shared, SHARED, PROT_READ | PROT_WRITE)) abort();
    }

    ~Processor() {
        end_block(block);
        munmap(shared - PAGE_BYTES, SHARED + 2 * PAGE_BYTES);
    }
};

// In no thread-local variable, as these are what `poison` overwrites.
static Processor &processor() {
    static pthread_key_t key;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, [] {
        pthread_key_create(&key, [](void *it) { delete (Processor *)it; });
        // The last is what the compiler puts where an index is beyond an array.
        for (int number : {SIGSEGV, SIGBUS, SIGILL}) signal(number, crashed);
    });
    void *it = pthread_getspecific(key);
    if (!it) pthread_setspecific(key, it = new Processor);
    return *(Processor *)it;
}

// Where the thread-local variables of this library lie, all of which are shared memory, but for `current`.
struct Variables {
    void *at;
    size_t bytes;
};

static int look(struct dl_phdr_info *library, size_t, void *found) {
    for (int i = 0; i < library->dlpi_phnum; i++) {
        auto &part = library->dlpi_phdr[i];
        uintptr_t own = (uintptr_t)KERNELS - library->dlpi_addr;
        if (part.p_type == PT_LOAD && own - part.p_vaddr < part.p_memsz) {
            for (int j = 0; j < library->dlpi_phnum; j++)
                if (library->dlpi_phdr[j].p_type == PT_TLS)
                    *(Variables *)found = {library->dlpi_tls_data, library->dlpi_phdr[j].p_memsz};
            return 1;
        }
    }
    return 0;
}

// Fills shared memory with NaN and with numbers out of range: a block finds nothing there.
static void poison(Variables variables, Block &block, size_t shared) {
    memset(variables.at, 0xff, variables.bytes);
    memset(block.shared, 0xff, shared);
}

static bool launch(Block &block, unsigned shared, uint64_t order) {
    current = block.all; // So that this thread has its variables.
    Variables variables = {};
    dl_iterate_phdr(look, &variables);
    Index grid = block.grid;
    size_t blocks = (size_t)grid.x * grid.y * grid.z;
    for (size_t i = 0; i < blocks; i++) {
        // From the last on, where the order is not their own.
        size_t at = order ? blocks - 1 - i : i;
        block.index = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        block.order = order ? (order + 1) * 0x9e3779b97f4a7c15ull ^ (at * 0xbf58476d1ce4e5b9ull | 1) : 0;
        poison(variables, block, shared);
        if (!block.run()) return false;
        // What lies between the end of the shared memory and the page after it.
        unsigned char *end = block.shared + shared;
        for (; (uintptr_t)end % 16 != 0; end++)
            if (*end != 0xff) return block.failure = "it wrote beyond its shared memory", false;
    }
    return true;
}

} // namespace card

const struct kernel *card_kernel(const char *name) {
    for (auto &kernel : card::KERNELS)
        if (strcmp(kernel.name, name) == 0) return &kernel;
    return nullptr;
}

int card_launch(const struct kernel *kernel, const unsigned grid[3], const unsigned threads[3], unsigned shared,
                void **arguments, unsigned long order) {
    card::Processor &processor = card::processor();
    card::Block &block = *processor.block;
    block.grid = {grid[0], grid[1], grid[2]};
    block.threads = {threads[0], threads[1], threads[2]};
    block.kernel = kernel->name;
    block.body = kernel->call;
    block.arguments = arguments;
    // Its end is that of the room, but for what 16 bytes take.
    size_t rounded = (shared + 15) / 16 * 16;
    block.shared = processor.shared + card::SHARED - rounded;
    memset(block.shared, 0xff, rounded);
    bool done = card::launch(block, shared, order);
    block.kernel = nullptr;
    if (done) return 0;
    fprintf(stderr, "the stand-in for a card: kernel `%s`, block (%u, %u, %u): %s\n", kernel->name, block.index.x,
            block.index.y, block.index.z, block.failure);
    // The fibers stand where they stood.
    card::end_block(processor.block);
    processor.block = card::make_block();
    return 1;
}
