package pgserver_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/tenantry/tenantry/services/internal/pgserver"
)

// ownerOf, in the environment, makes this binary an owner of a server in that directory that waits to be killed.
const ownerOf = "PGSERVER_TEST_OWNER_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerOf); dir != "" {
		own(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func own(dir string) {
	server, err := pgserver.Start(context.Background(), config(dir))
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(server.DSN("postgres"))
	<-server.Done()
}

func config(dir string) pgserver.Config {
	return pgserver.Config{Dir: dir, Password: "p@ss/word:1 ?"}
}
