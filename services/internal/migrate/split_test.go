package migrate

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextsAreSplitAsPostgreSQLReadsThem(t *testing.T) {
	t.Parallel()
	for _, statements := range [][]string{
		{},
		{"SELECT 1;", "SELECT 2"},
		{"SELECT 'a;b''c\\';", `SELECT "a;""b";`, `SELECT E'it\'s; ok', e'\\';`, "SELECT 1"},
		{"SELECT $$;$$, $a$ $$;$b$ $a$;", "SELECT a$b$c;", "SELECT $1;", "SELECT $é$;$é$;"},
		{"SELECT /* a; /* b; */ c; */ 1;", "SELECT 1 -- a;\n+ 1;", "SELECT 1 - -1, 2 / 1, 1-'2'::int;"},
		{"CREATE RULE r AS ON INSERT TO a DO ALSO (INSERT INTO b VALUES (1); INSERT INTO c VALUES (2));", "SELECT 1;"},
		{"CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n SELECT CASE WHEN true THEN 1 END; SELECT 'END'; END;", "SELECT 1;"},
		{"CREATE FUNCTION begin(atomic int) RETURNS int LANGUAGE sql AS 'SELECT 1;';", "BEGIN;", "SELECT CASE WHEN true THEN 1 END;", "END;"},
		{";", "SELECT 'é;'  ;"},
	} {
		got, err := split(strings.Join(statements, " -- between; 'them\n/* and \" */\n"), "")
		require.NoError(t, err)
		texts := []string{}
		for _, s := range got {
			texts = append(texts, s.text)
		}
		require.Equal(t, statements, texts)
	}
	got, err := split("SELECT 1; SELECT ')';\n-- go\n  SELECT '-- go';\n-- go\n\n-- nothing more\n", "-- go")
	require.NoError(t, err)
	require.Equal(t, []statement{{"SELECT 1; SELECT ')';", "SELECT 1 ; SELECT '' ;"}, {"SELECT '-- go';", "SELECT '' ;"}}, got)

	for text, want := range map[string]string{
		"SELECT 'a":             "line 1, column 8: unclosed '",
		"SELECT 1;\nSELECT é\"": `line 2, column 9: unclosed "`,
		"/* /* */":              "line 1, column 1: unclosed /*",
		"\n $a$ $b$":            "line 2, column 2: unclosed $a$",
		"SELECT (1;":            "line 1, column 8: unclosed (",
		"SELECT 1);":            "line 1, column 9: unexpected )",
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;": "line 1, column 39: unclosed BEGIN ATOMIC",
	} {
		_, err := split(text, "")
		require.EqualError(t, err, want)
	}
}

func TestTheKindOfAStatementIsKnownByItsTokens(t *testing.T) {
	t.Parallel()
	tokens := func(text string) string {
		got, err := split(text, "")
		require.NoError(t, err)
		require.Len(t, got, 1)
		return got[0].tokens
	}
	for _, text := range []string{"begin", "BEGIN /* x */ WORK;", "Start Transaction READ ONLY;", "COMMIT;", "END", "ROLLBACK;", "rollback and no chain;", "ABORT", "PREPARE TRANSACTION 'x'"} {
		require.True(t, control.MatchString(tokens(text)), text)
	}
	for _, text := range []string{"ROLLBACK TO SAVEPOINT a;", "SAVEPOINT a", "PREPARE a AS SELECT 1", "SELECT 'BEGIN'", "beginning", "DO $$ BEGIN COMMIT; END $$"} {
		require.False(t, control.MatchString(tokens(text)), text)
	}
	for text, want := range map[string][]string{
		"CREATE INDEX CONCURRENTLY i ON a (id);":                                         {"i", "a"},
		"create unique index concurrently if not exists \"My ON i\" on only s.\"T\" (x)": {`"My ON i"`, `s . "T"`},
		"CREATE INDEX CONCURRENTLY ON a USING gin (id);":                                 {"", "a"},
		"CREATE INDEX CONCURRENTLY IF NOT EXISTS on_a ON a(id);":                         {"on_a", "a"},
	} {
		require.Equal(t, want, building.FindStringSubmatch(tokens(text))[1:], text)
	}
	require.Nil(t, building.FindStringSubmatch(tokens("CREATE INDEX i ON a (id);")))
}

func TestADelimiterIsTakenFromTheFirstLineOnly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"-- atlas:delimiter -- end\nx": "-- end", `-- atlas:delimiter \n\n` + "\nx": "\n\n", "\n-- atlas:delimiter x\n": "", "--atlas:delimiter x\n": ""} {
		_, got := delimited(text)
		require.Equal(t, want, got, text)
	}
}

// Nothing but comments and spaces may be lost between statements.
func FuzzSplit(f *testing.F) {
	f.Add("SELECT 'a;', E'\\'', $$;$$; -- c\n/* d */ SELECT (1;2)", "")
	f.Add("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END; SELECT 2", "")
	f.Add("a\n-- end\nb", "-- end")
	f.Fuzz(func(t *testing.T, text, delimiter string) {
		got, err := split(text, delimiter)
		if err != nil {
			return
		}
		from := 0
		for _, s := range got {
			i := strings.Index(text[from:], s.text)
			require.GreaterOrEqual(t, i, 0)
			from += i + len(s.text)
			if delimiter == "" && s.text != "" {
				again, err := split(s.text, "")
				require.NoError(t, err)
				require.Equal(t, []statement{s}, slices.Clip(again))
			}
		}
	})
}
