int popek_machine_main(const char *path);
