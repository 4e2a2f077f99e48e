// All kernels, one module. Every array is f32 and row-major unless its type says otherwise.
//
// No kernel adds to memory that another block adds to, and every sum has one order that depends on
// the shape alone: the same call on the same card gives the same bits.
#include "shared.cuh"
#ifdef __CUDACC__
#include "machine.cuh"
#else
#include <machine.h>
#endif

#include "rows.cuh"
#include "head.cuh"
#include "draw.cuh"
#include "gradients.cuh"
#include "attention.cuh"
#include "attention_backward.cuh"
#include "attention_bf16.cuh"
#include "operands.cuh"
#include "attention_cached.cuh"
#include "narrow.cuh"
