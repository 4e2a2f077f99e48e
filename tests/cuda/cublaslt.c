/* A stand-in for NVIDIA's cuBLASLt, for tests without a card: products are computed on the processor, and a sum has
 * one order, whatever the number of columns.
 *
 *   FAKE_CUBLASLT_VERSION   130100 is 13.1.0
 *   FAKE_CUDA_IDLE          1: products compute nothing
 */

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NO_MEMORY = 3, INVALID = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14 };
enum { COMPUTE_F32 = 68 };
enum { TURN_A = 3, TURN_B = 4 };

struct description {
    int turned_a, turned_b;
};

/* A matrix by columns, which are `stride` numbers apart. */
struct layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};

/* A function of the driver's stand-in, which knows what is captured. */
static void *of_driver(const char *name) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    void *found = driver ? dlsym(driver, name) : NULL;
    if (!found) abort();
    return found;
}

size_t cublasLtGetVersion(void) {
    const char *text = getenv("FAKE_CUBLASLT_VERSION");
    return text ? strtoul(text, NULL, 10) : 130100;
}

static int made(void **handle) {
    static int one;
    *handle = &one;
    return SUCCESS;
}

int cublasLtCreate(void **handle) { return made(handle); }
int cublasLtDestroy(void *handle) { return handle == NULL; }

int cublasLtMatmulDescCreate(struct description **description, int compute, int scale) {
    if (compute != COMPUTE_F32 || scale != F32) return NOT_SUPPORTED;
    *description = calloc(1, sizeof **description);
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(struct description *description, int attribute, const void *value, size_t bytes) {
    int turned;
    if (bytes != sizeof turned || (attribute != TURN_A && attribute != TURN_B)) return NOT_SUPPORTED;
    memcpy(&turned, value, bytes);
    if (turned != 0 && turned != 1) return INVALID;
    *(attribute == TURN_A ? &description->turned_a : &description->turned_b) = turned;
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(struct description *description) {
    free(description);
    return SUCCESS;
}

int cublasLtMatrixLayoutCreate(struct layout **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if ((type != F32 && type != BF16) || stride < (int64_t)rows) return INVALID;
    *layout = malloc(sizeof **layout);
    **layout = (struct layout){type, rows, columns, stride};
    return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(struct layout *layout) {
    free(layout);
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(void **preference) { return made(preference); }

int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t bytes) {
    (void)preference, (void)attribute, (void)value, (void)bytes;
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(void *preference) { return preference == NULL; }

/* What the library writes for an algorithm that it found. */
struct heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                   void *preference, int most, struct heuristic *found, int *count) {
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)most;
    int (*capturing)(void) = of_driver("card_capturing");
    if (capturing()) return NOT_SUPPORTED;
    memset(found, 0, sizeof *found);
    *count = 1;
    return SUCCESS;
}

int cublasLtMatmulAlgoConfigGetAttribute(const void *algorithm, int attribute, void *value, size_t bytes,
                                         size_t *written) {
    (void)algorithm, (void)attribute;
    memset(value, 0, bytes);
    *written = bytes;
    return SUCCESS;
}

/* A tile of the result: so many rows at once as a vector has, times so many columns. */
enum { TALL = 16, WIDE = 8 };
typedef float vector __attribute__((vector_size(4 * TALL)));

#define INLINED static inline __attribute__((always_inline))

INLINED float number(int type, const void *from, uint64_t at) {
    uint32_t bits;
    if (type == BF16) {
        bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    } else {
        memcpy(&bits, (const float *)from + at, sizeof bits);
    }
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINED void put(int type, void *to, uint64_t at, float x) {
    if (type == F32) {
        ((float *)to)[at] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* To the nearest, of two the even one. */
    ((uint16_t *)to)[at] = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INLINED void lay_out_as(int type, int turned, float *to, int count, uint64_t here, uint64_t terms,
                        uint64_t stride, const void *from) {
    if (turned)
        for (int i = 0; i < count; i++)
            for (uint64_t term = 0; term < terms; term++)
                to[term * count + i] = (uint64_t)i < here ? number(type, from, term + i * stride) : 0;
    else
        for (uint64_t term = 0; term < terms; term++)
            for (int i = 0; i < count; i++)
                to[term * count + i] = (uint64_t)i < here ? number(type, from, i + term * stride) : 0;
}

/* Lays out `count` rows (or, turned, columns) of an operand from `first` on, so that the numbers of one term are
 * together; zeros where there are no more. */
static void lay_out(float *to, int count, uint64_t first, uint64_t terms, const struct layout *layout, const void *from,
                    int turned) {
    uint64_t here = (turned ? layout->columns : layout->rows) - first, stride = layout->stride;
    const char *begin = from;
    begin += (layout->type == BF16 ? 2 : 4) * (turned ? first * stride : first);
    /* Each as a loop of its own. */
#define CASE(type, turned) lay_out_as(type, turned, to, count, here, terms, stride, begin)
    if (layout->type == BF16) turned ? CASE(BF16, 1) : CASE(BF16, 0);
    else turned ? CASE(F32, 1) : CASE(F32, 0);
}

/* A product as it was asked for: what describes it may be gone when it is formed. */
struct product {
    struct description description;
    struct layout a_layout, b_layout, d_layout;
    const void *a, *b;
    float alpha, beta;
    const void *c;
    void *d;
};

static int form(const void *asked) {
    const struct product *product = asked;
    const struct description *description = &product->description;
    const struct layout *a_layout = &product->a_layout, *b_layout = &product->b_layout, *d_layout = &product->d_layout;
    const void *a = product->a, *b = product->b;
    const float *alpha = &product->alpha, *beta = &product->beta;
    uint64_t rows = d_layout->rows, columns = d_layout->columns;
    uint64_t terms = description->turned_a ? a_layout->rows : a_layout->columns;
    uint64_t of_a = description->turned_a ? a_layout->columns : a_layout->rows;
    uint64_t of_b = description->turned_b ? b_layout->rows : b_layout->columns;
    uint64_t terms_of_b = description->turned_b ? b_layout->columns : b_layout->rows;
    if (of_a != rows || of_b != columns || terms_of_b != terms) return INVALID;
    void (*wait)(void) = of_driver("card_wait");
    wait();
    const char *idle = getenv("FAKE_CUDA_IDLE");
    if (idle && atoi(idle)) return SUCCESS;
    uint64_t across = (columns + WIDE - 1) / WIDE;
    float *left = aligned_alloc(sizeof(vector), sizeof(vector) * terms), *right = malloc(sizeof(float) * WIDE * terms * across);
    if (!left || !right) return free(left), free(right), NO_MEMORY;
    for (uint64_t i = 0; i < across; i++)
        lay_out(right + i * WIDE * terms, WIDE, i * WIDE, terms, b_layout, b, !description->turned_b);
    for (uint64_t first = 0; first < rows; first += TALL) {
        lay_out(left, TALL, first, terms, a_layout, a, description->turned_a);
        for (uint64_t i = 0; i < across; i++) {
            vector sums[WIDE] = {};
            const float *column = right + i * WIDE * terms;
            for (uint64_t term = 0; term < terms; term++) {
                vector row = *(const vector *)(left + term * TALL);
                for (int j = 0; j < WIDE; j++) sums[j] += row * column[term * WIDE + j];
            }
            for (int j = 0; j < WIDE && i * WIDE + j < columns; j++)
                for (int k = 0; k < TALL && first + k < rows; k++) {
                    uint64_t at = first + k + (i * WIDE + j) * d_layout->stride;
                    float before = *beta == 0 ? 0 : *beta * number(d_layout->type, product->c, at);
                    put(d_layout->type, product->d, at, *alpha * sums[j][k] + before);
                }
        }
    }
    free(left), free(right);
    return SUCCESS;
}

int cublasLtMatmul(void *handle, const struct description *description, const float *alpha, const void *a,
                   const struct layout *a_layout, const void *b, const struct layout *b_layout, const float *beta,
                   const void *c, const struct layout *c_layout, void *d, const struct layout *d_layout,
                   const void *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
    (void)handle, (void)algorithm, (void)workspace, (void)workspace_bytes;
    if (c_layout != d_layout) return INVALID;
    struct product product = {*description, *a_layout, *b_layout, *d_layout, a, b, *alpha, *beta, c, d};
    int (*capture)(void *, int (*)(const void *), const void *, size_t) = of_driver("card_capture");
    return capture(stream, form, &product, sizeof product) ? SUCCESS : form(&product);
}
