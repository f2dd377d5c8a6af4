#include "vec_avx2.h"

#include "packed_vec.h"

#include "row_vec.h"

#include "few_vec.h"

#include "dot_vec.h"

#include "attention_vec.h"

#define TABLE      kern_cpu_avx2
#define TABLE_NAME "avx2"
#include "ops_vec.h"
