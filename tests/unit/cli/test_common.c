/* What the commands have in common. */
#include "check.h"

#include "cli/cli.h"

static void parameters_have_a_unit_of_their_size(void **state)
{
    static const struct {
        uint64_t total, active;
        const char *text;
    } cases[] = {
        {30532122624, 3345000000, "30.53 G parameters, 3.35 G active"},
        {1000000000, 999000000, "1.00 G parameters, 1.00 G active"},
        {9621120, 3427968, "9.62 M parameters, 3.43 M active"},
    };
    char text[80];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cli_parameters_text(text, sizeof text, cases[i].total, cases[i].active);
        assert_string_equal(text, cases[i].text);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(parameters_have_a_unit_of_their_size),
};
CHECK_MAIN(tests)
