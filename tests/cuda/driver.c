/* A stand-in for NVIDIA's driver, for tests without a card. Memory is the machine's and begins as NaN, copies copy, and
 * kernels are those of the sources, compiled for the processor (`card/`): everything is done when a call returns. So it
 * shows what the sources compute and what they are asked, and nothing of a real card: neither what its tensor cores
 * round, nor how fast it is, nor what happens when its warps run at once.
 *
 *   FAKE_CUDA_VERSION   CUDA that it is for: 13000 is 13.0
 *   FAKE_CUDA_DEVICES   how many cards there are
 *   FAKE_CUDA_FREE      bytes of free memory; with two more numbers after commas, so many from that allocation on
 *   FAKE_CUDA_FAIL      the number of an allocation, from 1, that fails; with a `-` behind it, all from it on fail
 *   FAKE_CUDA_BUSY      1: another process has the card for itself
 *   FAKE_CUDA_LOAD      error that loading kernels gives, for example 209
 *   FAKE_CUDA_CRASH     the number of a launch, from 1, from which on kernels fail
 *   FAKE_CUDA_COUNT     a file that gets, when the program ends, how many allocations and launches there were, and how
 *                       many bytes were in use at most
 *   FAKE_CUDA_IDLE      1: kernels compute nothing
 *   FAKE_CUDA_ORDER     the order in which threads and blocks run: 0 is their own, each other number another
 */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    LAUNCH_FAILED = 719
};

/* Bytes of shared memory that a block may be given where that is asked for, and else. */
enum { SHARED_MOST = 232448, SHARED_USUAL = 49152 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long used, most_used, allocations, launches;

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
    fprintf(file, "{\"allocations\": %lu, \"launches\": %lu, \"bytes\": %lu}\n", allocations, launches, most_used);
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

int cuDevicePrimaryCtxRetain(void **context, int device) {
    static int contexts[64];
    *context = &contexts[device];
    return setting("FAKE_CUDA_BUSY", 0) ? BUSY : SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    return SUCCESS;
}

int cuCtxSetCurrent(void *context) {
    (void)context;
    return SUCCESS;
}

int cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    static int one;
    *stream = &one;
    return SUCCESS;
}

int cuStreamSynchronize(void *stream) {
    (void)stream;
    return SUCCESS;
}

int cuStreamDestroy_v2(void *stream) {
    (void)stream;
    return SUCCESS;
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

int cuFuncSetAttribute(struct function *function, int attribute, int value) {
    if (attribute != 8 || value > SHARED_MOST) return INVALID; /* the most dynamic shared memory */
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

/* The size of an allocation lies before it, and bytes that nobody may overwrite lie behind it. */
enum { BEFORE = 256, BEHIND = 256 };

int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    (void)stream;
    pthread_mutex_lock(&lock);
    int full = fails(++allocations) || used + bytes > room();
    if (!full) used += bytes;
    if (used > most_used) most_used = used;
    pthread_mutex_unlock(&lock);
    char *memory = NULL;
    if (full || posix_memalign((void **)&memory, BEFORE, BEFORE + bytes + BEHIND)) return OUT_OF_MEMORY;
    memset(memory, 0xff, BEFORE + bytes + BEHIND);
    memcpy(memory, &bytes, sizeof bytes);
    *address = (uint64_t)(memory + BEFORE);
    return SUCCESS;
}

int cuMemFreeAsync(uint64_t address, void *stream) {
    (void)stream;
    char *memory = (char *)address - BEFORE;
    size_t bytes;
    memcpy(&bytes, memory, sizeof bytes);
    for (int i = 0; i < BEHIND; i++)
        if ((unsigned char)memory[BEFORE + bytes + i] != 0xff) {
            fprintf(stderr, "the stand-in for a card: something wrote beyond %zu bytes of memory\n", bytes);
            abort();
        }
    pthread_mutex_lock(&lock);
    used -= bytes;
    pthread_mutex_unlock(&lock);
    /* Who still has the address finds nothing there. */
    memset(memory, 0xff, BEFORE + bytes);
    free(memory);
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    memcpy((void *)to, from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(to, (void *)from, bytes);
    return SUCCESS;
}

int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    memset((void *)address, value, bytes);
    return SUCCESS;
}

int cuLaunchKernel(const struct function *function, unsigned x, unsigned y, unsigned z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **arguments, void **extra) {
    (void)stream, (void)extra;
    pthread_mutex_lock(&lock);
    long long launch = ++launches, last = setting("FAKE_CUDA_CRASH", 0);
    pthread_mutex_unlock(&lock);
    if (last > 0 && launch >= last) return LAUNCH_FAILED;
    unsigned grid[3] = {x, y, z}, threads[3] = {block_x, block_y, block_z};
    unsigned long count = (unsigned long)block_x * block_y * block_z;
    int fits = x && y && z && x <= INT32_MAX && y <= 65535 && z <= 65535 && count && count <= 1024;
    if (!fits || shared > function->most) return INVALID;
    if (setting("FAKE_CUDA_IDLE", 0)) return SUCCESS;
    int failed = card_launch(function->kernel, grid, threads, shared, arguments, setting("FAKE_CUDA_ORDER", 0));
    return failed ? LAUNCH_FAILED : SUCCESS;
}
