/* A stand-in for NVIDIA's driver, for tests without a card. Memory is the machine's and begins as NaN, copies copy, and
 * kernels are those of the sources, compiled for the processor (`card/`): everything is done when a call returns. So it
 * shows what the sources compute and what they are asked, and nothing of a real card: neither what its tensor cores
 * round, nor how fast it is, nor what happens when its warps run at once.
 *
 * What NCCL's stand-in does on the stream (`nccl.c`) goes on in the background. Memory that is freed meanwhile is kept
 * until it is over; all else that is asked of the stream waits for it, where a real card would only take it down.
 *
 *   FAKE_CUDA_VERSION   CUDA that it is for: 13000 is 13.0
 *   FAKE_CUDA_DEVICES   how many cards there are
 *   FAKE_CUDA_FREE      bytes of free memory; with two more numbers after commas, so many from that allocation on
 *   FAKE_CUDA_FAIL      the number of an allocation, from 1, that fails; with a `-` behind it, all from it on fail
 *   FAKE_CUDA_BUSY      1: another process has the card for itself
 *   FAKE_CUDA_LOAD      error that loading kernels gives, for example 209
 *   FAKE_CUDA_CRASH     the number of a launch, from 1, from which on kernels fail
 *   FAKE_CUDA_COUNT     a file that gets, when the program ends, how many allocations, launches and launches of graphs
 *                       there were, and how many bytes were in use at most
 *   FAKE_CUDA_IDLE      1: kernels compute nothing
 *   FAKE_CUDA_ORDER     the order in which threads and blocks run: 0 is their own, each other number another
 */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "launch.h"

enum {
    SUCCESS = 0,
    INVALID = 1,
    OUT_OF_MEMORY = 2,
    BUSY = 46,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NO_BINARY = 209,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURED = 900
};

/* Bytes of shared memory that a block may be given where that is asked for, and else. */
enum { SHARED_MOST = 232448, SHARED_USUAL = 49152 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long used, most_used, allocations, launches;

/* Transfers of NCCL on the stream, of which there is one, that are not over. */
static pthread_cond_t over = PTHREAD_COND_INITIALIZER;
static unsigned long transfers;

static long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

/* Bytes that may be in use: the first number, or the second one where so many have been allocated as the third says. */
static unsigned long room(void) {
    const char *text = getenv("FAKE_CUDA_FREE");
    if (!text) return 8000000000ul;
    const char *second = strchr(text, ',');
    const char *from = second ? strchr(second + 1, ',') : NULL;
    int later = from && allocations >= strtoul(from + 1, NULL, 10);
    return strtoul(later ? second + 1 : text, NULL, 10);
}

static int fails(unsigned long allocation) {
    const char *text = getenv("FAKE_CUDA_FAIL");
    if (!text) return 0;
    char *end;
    unsigned long first = strtoul(text, &end, 10);
    return *end == '-' ? allocation >= first : allocation == first;
}

__attribute__((destructor)) static void count(void) {
    const char *name = getenv("FAKE_CUDA_COUNT");
    FILE *file = name ? fopen(name, "w") : NULL;
    if (!file) return;
    fprintf(file, "{\"allocations\": %lu, \"launches\": %lu, \"graphs\": %lu, \"bytes\": %lu}\n", allocations, launches,
            card_graphs(), most_used);
    fclose(file);
}

int cuDriverGetVersion(int *version) {
    *version = setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}

int cuInit(unsigned flags) {
    (void)flags;
    return setting("FAKE_CUDA_DEVICES", 1) > 0 ? SUCCESS : NO_DEVICE;
}

static const char *text_of(int error) {
    switch (error) {
    case OUT_OF_MEMORY: return "out of memory";
    case NO_DEVICE: return "no CUDA-capable device is detected";
    case INVALID_DEVICE: return "invalid device ordinal";
    case BUSY: return "CUDA-capable device(s) is/are busy or unavailable";
    case NO_BINARY: return "no kernel image is available for execution on the device";
    case NOT_FOUND: return "named symbol not found";
    case NOT_READY: return "device not ready";
    case NOT_SUPPORTED: return "operation not supported";
    case CAPTURED: return "operation not permitted when stream is capturing";
    case LAUNCH_FAILED: return "unspecified launch failure";
    default: return "invalid argument";
    }
}

int cuGetErrorString(int error, const char **text) {
    *text = text_of(error);
    return SUCCESS;
}

int cuGetErrorName(int error, const char **text) {
    *text = text_of(error);
    return SUCCESS;
}

int cuDeviceGetCount(int *number) {
    *number = setting("FAKE_CUDA_DEVICES", 1);
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < setting("FAKE_CUDA_DEVICES", 1) ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    snprintf(name, length, "Fake card");
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = 8000000000ul;
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 16: *value = 4; break; /* multiprocessors */
    case 75: *value = 9; break; /* compute capability */
    case 76: *value = 0; break;
    default: *value = SHARED_MOST;
    }
    return SUCCESS;
}

static int contexts[64];
static _Thread_local int *current;

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &contexts[device];
    return setting("FAKE_CUDA_BUSY", 0) ? BUSY : SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    return SUCCESS;
}

int cuCtxSetCurrent(void *context) {
    current = context;
    return SUCCESS;
}

/* The number of the device that this thread's calls mean; -1 where that is none. */
int card_current(void) { return current ? (int)(current - contexts) : -1; }

/* Waits until nothing is under way on the stream. */
void card_wait(void) {
    pthread_mutex_lock(&lock);
    while (transfers) pthread_cond_wait(&over, &lock);
    pthread_mutex_unlock(&lock);
}

int cuStreamSynchronize(void *stream) {
    (void)stream;
    if (card_capturing()) return CAPTURED;
    card_wait();
    return SUCCESS;
}

int cuStreamQuery(void *stream) {
    (void)stream;
    pthread_mutex_lock(&lock);
    int busy = transfers > 0;
    pthread_mutex_unlock(&lock);
    return busy ? NOT_READY : SUCCESS;
}

int cuModuleLoadData(void **module, const void *image) {
    static int one;
    *module = &one;
    return image ? setting("FAKE_CUDA_LOAD", SUCCESS) : INVALID;
}

/* A kernel, and how much dynamic shared memory it may be given. */
struct function {
    const struct kernel *kernel;
    unsigned most;
};

int cuModuleGetFunction(struct function **function, void *module, const char *name) {
    (void)module;
    const struct kernel *kernel = card_kernel(name);
    if (!kernel) return NOT_FOUND;
    *function = malloc(sizeof **function);
    **function = (struct function){kernel, SHARED_USUAL};
    return SUCCESS;
}

/* Shared memory that a kernel has of its own, which leaves it less that is dynamic: as if each had as much. */
enum { SHARED_OWN = 1024 };

int cuFuncGetAttribute(int *value, int attribute, struct function *function) {
    (void)function;
    if (attribute != 1) return INVALID;
    *value = SHARED_OWN;
    return SUCCESS;
}

int cuFuncSetAttribute(struct function *function, int attribute, int value) {
    if (attribute == 9) return value >= -1 && value <= 100 ? SUCCESS : INVALID; /* what is cut out of the first cache */
    if (attribute != 8 || value > SHARED_MOST - SHARED_OWN) return INVALID; /* the most dynamic shared memory */
    function->most = value;
    return SUCCESS;
}

int cuDeviceGetDefaultMemPool(void **pool, int device) {
    (void)device;
    static int one;
    *pool = &one;
    return SUCCESS;
}

int cuMemPoolSetAttribute(void *pool, int attribute, void *value) {
    (void)pool, (void)attribute, (void)value;
    return SUCCESS;
}

int cuMemPoolGetAttribute(void *pool, int attribute, uint64_t *value) {
    (void)pool, (void)attribute;
    pthread_mutex_lock(&lock);
    *value = used;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    pthread_mutex_lock(&lock);
    unsigned long most = room();
    *free = most > used ? most - used : 0;
    *total = 8000000000ul;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* What lies before memory that was allocated; bytes that nobody may overwrite lie behind it. */
struct block {
    size_t bytes;
    struct block *before, *next;
};

enum { BEFORE = 256, BEHIND = 256 };

/* Memory that is in use, and what will be free when the transfers are over. */
static struct block *blocks, *freed;

static char *memory_of(struct block *block) { return (char *)block + BEFORE; }

int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    (void)stream;
    if (card_capturing()) return CAPTURED;
    pthread_mutex_lock(&lock);
    int full = fails(++allocations) || used + bytes > room();
    if (!full) used += bytes;
    if (used > most_used) most_used = used;
    pthread_mutex_unlock(&lock);
    struct block *block = NULL;
    if (full || posix_memalign((void **)&block, BEFORE, BEFORE + bytes + BEHIND)) return OUT_OF_MEMORY;
    memset(block, 0xff, BEFORE + bytes + BEHIND);
    pthread_mutex_lock(&lock);
    *block = (struct block){bytes, NULL, blocks};
    if (blocks) blocks->before = block;
    blocks = block;
    pthread_mutex_unlock(&lock);
    *address = (uint64_t)memory_of(block);
    return SUCCESS;
}

static void release(struct block *block) {
    const unsigned char *behind = (unsigned char *)memory_of(block) + block->bytes;
    for (int i = 0; i < BEHIND; i++)
        if (behind[i] != 0xff) {
            fprintf(stderr, "the stand-in for a card: something wrote beyond %zu bytes of memory\n", block->bytes);
            abort();
        }
    used -= block->bytes;
    /* Who still has the address finds nothing there. */
    memset(block, 0xff, BEFORE + block->bytes);
    free(block);
}

int cuMemFreeAsync(uint64_t address, void *stream) {
    (void)stream;
    if (card_capturing()) return CAPTURED;
    struct block *block = (struct block *)((char *)address - BEFORE);
    pthread_mutex_lock(&lock);
    if (block->next) block->next->before = block->before;
    *(block->before ? &block->before->next : &blocks) = block->next;
    if (transfers) {
        block->next = freed;
        freed = block;
    } else
        release(block);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* Whether so many bytes from an address on are memory of the card. */
int card_holds(const void *address, size_t bytes) {
    pthread_mutex_lock(&lock);
    struct block *block = blocks;
    for (; block; block = block->next) {
        size_t at = (uint64_t)address - (uint64_t)memory_of(block);
        if (at <= block->bytes && bytes <= block->bytes - at) break;
    }
    pthread_mutex_unlock(&lock);
    return block != NULL;
}

/* A transfer is under way on the stream. */
void card_begin(void) {
    pthread_mutex_lock(&lock);
    transfers++;
    pthread_mutex_unlock(&lock);
}

/* A transfer is over. */
void card_end(void) {
    pthread_mutex_lock(&lock);
    if (--transfers == 0) {
        for (struct block *next; freed; freed = next) {
            next = freed->next;
            release(freed);
        }
        pthread_cond_broadcast(&over);
    }
    pthread_mutex_unlock(&lock);
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    if (card_capturing()) return CAPTURED;
    card_wait();
    memcpy((void *)to, from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    (void)stream;
    if (card_capturing()) return CAPTURED;
    card_wait();
    memcpy(to, (void *)from, bytes);
    return SUCCESS;
}

int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    if (card_capturing()) return CAPTURED;
    card_wait();
    memset((void *)address, value, bytes);
    return SUCCESS;
}

/* A launch as it was asked for. The sources have room for the largest argument behind each pointer to one. */
enum { MOST = 32, ROOM = 48 };

struct launch {
    const struct kernel *kernel;
    unsigned grid[3], threads[3], shared;
    unsigned char arguments[MOST][ROOM];
};

static int run(const void *asked) {
    const struct launch *launch = asked;
    card_wait();
    pthread_mutex_lock(&lock);
    long long number = ++launches, last = setting("FAKE_CUDA_CRASH", 0);
    pthread_mutex_unlock(&lock);
    if (last > 0 && number >= last) return LAUNCH_FAILED;
    if (setting("FAKE_CUDA_IDLE", 0)) return SUCCESS;
    void *arguments[MOST];
    for (int i = 0; i < MOST; i++) arguments[i] = (void *)launch->arguments[i];
    int failed = card_launch(launch->kernel, launch->grid, launch->threads, launch->shared, arguments,
                             setting("FAKE_CUDA_ORDER", 0));
    return failed ? LAUNCH_FAILED : SUCCESS;
}

int cuLaunchKernel(const struct function *function, unsigned x, unsigned y, unsigned z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **arguments, void **extra) {
    (void)extra;
    unsigned long count = (unsigned long)block_x * block_y * block_z;
    int fits = x && y && z && x <= INT32_MAX && y <= 65535 && z <= 65535 && count && count <= 1024;
    if (!fits || shared > function->most || function->kernel->arguments > MOST) return INVALID;
    struct launch launch = {function->kernel, {x, y, z}, {block_x, block_y, block_z}, shared, {}};
    for (unsigned i = 0; i < function->kernel->arguments; i++) memcpy(launch.arguments[i], arguments[i], ROOM);
    return card_capture(stream, run, &launch, sizeof launch) ? SUCCESS : run(&launch);
}
