#include "vec_avx2.h"

#include "dot_vec.h"

#include "attention_vec.h"

#define TABLE      kern_cpu_avx2
#define TABLE_NAME "avx2"
#include "ops_vec.h"
