/* A library that shows that it was loaded: makes the file that EVIL_MARKER names. */
#include <fcntl.h>
#include <stdlib.h>

__attribute__((constructor)) static void loaded(void)
{
	const char *marker = getenv("EVIL_MARKER");

	open(marker ? marker : "/tmp/palan-evil-marker", O_CREAT | O_WRONLY, 0600);
}
