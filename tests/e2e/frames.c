/* A program whose call tree is known and whose functions keep no frame pointers: see unwind.rs. */
#include <alloca.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

#define WORK 200000

static volatile unsigned long sink;

/* All time is spent here. What stands after a call keeps the caller on the stack. */
__attribute__((noinline)) static void leaf(void)
{
	for (unsigned long i = 0; i < WORK; i++)
		sink += i;
}

__attribute__((noinline)) static void deep(int depth)
{
	if (depth == 0)
		leaf();
	else
		deep(depth - 1);
	sink++;
}

/* The compiler aligns the stack pointer and finds its caller by another register. */
__attribute__((noinline)) static void realigned(void)
{
	_Alignas(64) volatile char local[64];
	volatile char *grown = alloca(sink % 64 + 64);
	local[0] = 1;
	grown[0] = 1;
	leaf();
	sink += local[0] + grown[0];
}

__attribute__((noinline)) static void variable(void)
{
	volatile char *grown = alloca(sink % 64 + 64);
	grown[0] = 1;
	leaf();
	sink += grown[0];
}

/* More than a row of the table can say. */
__attribute__((noinline)) static void large(void)
{
	volatile char local[600 << 10];
	local[0] = 1;
	leaf();
	sink += local[0];
}

__attribute__((noinline)) static int compare(const void *one, const void *other)
{
	(void)one;
	(void)other;
	leaf();
	sink++;
	return 0;
}

__attribute__((noinline)) static void on_signal(int number)
{
	(void)number;
	leaf();
	sink++;
}

__attribute__((noinline)) static void all(void)
{
	int two[2] = {1, 2};
	deep(60);
	realigned();
	variable();
	large();
	qsort(two, 2, sizeof two[0], compare);
	sink++;
}

int main(void)
{
	struct itimerval interval = {{0, 5000}, {0, 5000}};
	signal(SIGPROF, on_signal);
	setitimer(ITIMER_PROF, &interval, NULL);
	for (;;)
		all();
}
