/* A stand-in for NVIDIA's cuBLASLt, for tests of what goes wrong: products are taken and nothing is computed.
 *
 *   FAKE_CUBLASLT_VERSION   130100 is 13.1.0
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Descriptors are only passed around. */
static int made(void **handle) {
    static int one;
    *handle = &one;
    return 0;
}

size_t cublasLtGetVersion(void) {
    const char *text = getenv("FAKE_CUBLASLT_VERSION");
    return text ? strtoul(text, NULL, 10) : 130100;
}

int cublasLtCreate(void **handle) { return made(handle); }
int cublasLtDestroy(void *handle) { return handle == NULL; }

int cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    (void)compute, (void)scale;
    return made(description);
}

int cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t bytes) {
    (void)description, (void)attribute, (void)value, (void)bytes;
    return 0;
}

int cublasLtMatmulDescDestroy(void *description) { return description == NULL; }

int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    (void)type, (void)rows, (void)columns, (void)stride;
    return made(layout);
}

int cublasLtMatrixLayoutDestroy(void *layout) { return layout == NULL; }
int cublasLtMatmulPreferenceCreate(void **preference) { return made(preference); }

int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t bytes) {
    (void)preference, (void)attribute, (void)value, (void)bytes;
    return 0;
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
    memset(found, 0, sizeof *found);
    *count = 1;
    return 0;
}

int cublasLtMatmulAlgoConfigGetAttribute(const void *algorithm, int attribute, void *value, size_t bytes,
                                         size_t *written) {
    (void)algorithm, (void)attribute;
    memset(value, 0, bytes);
    *written = bytes;
    return 0;
}

int cublasLtMatmul(void *handle, void *description, const void *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const void *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
    (void)handle, (void)description, (void)alpha, (void)a, (void)a_layout, (void)b, (void)b_layout, (void)beta;
    (void)c, (void)c_layout, (void)d, (void)d_layout, (void)algorithm, (void)workspace, (void)workspace_bytes;
    (void)stream;
    return 0;
}
