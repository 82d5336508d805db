/* The 512-byte blocks of a tar. */
#ifndef FAAS_TAR_H
#define FAAS_TAR_H

enum {
    TAR_BLOCK = 512,
    TAR_NAME_MAX = 4095,        /* PATH_MAX without the NUL */
    TAR_PAX_MAX = 64 << 10,     /* of one extended header; ours have three fields */
};

struct tar_header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[8], user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};

#endif
