#ifndef FAAS_BASE_H
#define FAAS_BASE_H
/* Where the base is mounted; empty before it is. */
extern char base_path[64];
#endif
