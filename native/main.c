/* One binary, five verbs. */
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "launch.h"

int main(int argc, char **argv) {
    if (argc >= 2 && !strcmp(argv[1], "agent")) return agent_main(argc - 2, argv + 2);
    if (argc >= 2 && !strcmp(argv[1], "launch")) return launch_main(argc - 2, argv + 2);
    if (argc >= 2 && !strcmp(argv[1], "pause")) return pause_main(argc - 2, argv + 2);
    if (argc >= 2 && !strcmp(argv[1], "relay")) return relay_main(argc - 2, argv + 2);
    if (argc >= 2 && !strcmp(argv[1], "tunnel")) return tunnel_main(argc - 2, argv + 2);
    fputs("usage: faas-native agent (--listen PATH | --listen-fd N) [--fake-init]\n"
          "       faas-native launch --control FD\n"
          "       faas-native pause --listen PATH\n"
          "       faas-native relay SOCKET SPOOL PREFIX\n"
          "       faas-native tunnel\n", stderr);
    return 2;
}
