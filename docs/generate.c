/* Text from a language model that qlstm.export_c has written as text.h.

     cc -O3 -I<folder of text.h> generate.c -o generate -lm
     ./generate "The " 200 0.8 1        prompt, characters, temperature, seed */

#include <stdio.h>
#include <stdlib.h>

#include "text.h"

/* The characters in the order of their symbols. Put your network's here, as
   "".join(qlstm.load_dataset(...).vocabulary) gives them; all of one byte. */
static const char alphabet[] = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`"
                               "abcdefghijklmnopqrstuvwxyz{|}~\n";
typedef char alphabet_has_a_character_for_each_symbol[sizeof alphabet == TEXT_OUTPUTS + 1 ? 1 : -1];

/* A number in [0, 1), by xorshift (Marsaglia, 2003). */
static float uniform(uint32_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    return (float)(*random >> 8) / 16777216.0f;
}

/* A symbol with the probabilities softmax(logits / temperature); of temperature 0 the likeliest. */
static int draw(float *logits, float temperature, uint32_t *random)
{
    int j, best = 0;
    float sum = 0, rest, most;
    for (j = 1; j < TEXT_OUTPUTS; j++)
        if (logits[j] > logits[best])
            best = j;
    if (temperature <= 0)
        return best;
    most = logits[best];
    for (j = 0; j < TEXT_OUTPUTS; j++)
        sum += logits[j] = expf((logits[j] - most) / temperature);
    rest = uniform(random) * sum;
    for (j = 0; j < TEXT_OUTPUTS - 1 && rest >= logits[j]; j++)
        rest -= logits[j];
    return j;
}

int main(int count, char **arguments)
{
    const char *prompt = count > 1 ? arguments[1] : "The ";
    int left = count > 2 ? atoi(arguments[2]) : 200, symbol;
    float temperature = count > 3 ? (float)atof(arguments[3]) : 1, logits[TEXT_OUTPUTS] = {0};
    uint32_t random = 2654435769u * (count > 4 ? (uint32_t)atoi(arguments[4]) : 1) | 1;
    text_state state;

    text_start(&state);
    for (; *prompt; prompt++) {
        for (symbol = 0; symbol < TEXT_OUTPUTS - 1 && alphabet[symbol] != *prompt; symbol++)
            ;
        putchar(*prompt);
        text_step(&state, symbol, logits);
    }
    while (left-- > 0) {
        symbol = draw(logits, temperature, &random);
        putchar(alphabet[symbol]);
        text_step(&state, symbol, logits);
    }
    putchar('\n');
    return 0;
}
