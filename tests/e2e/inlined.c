/* A program that is busy in functions that its compiler puts into one another. */

static volatile unsigned long sink;

static inline __attribute__((always_inline)) void leaf(unsigned long by)
{
	for (int round = 0; round < 1000; round++)
		sink = sink / by + round;
}

static inline __attribute__((always_inline)) void middle(void)
{
	leaf(7);
	sink += 1;
}

__attribute__((noinline)) void outer(void)
{
	middle();
	sink += 2;
}

int main(void)
{
	for (;;)
		outer();
}
