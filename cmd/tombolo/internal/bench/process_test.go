package bench

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestProcessTree(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc here")
	}
	alone, err := processTree(os.Getpid())
	if err != nil || alone.rss <= 0 || alone.peak < alone.rss {
		t.Fatalf("%+v, %v", alone, err)
	}
	// A shell that waits for its own child is a tree of two below us.
	child := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo ready; read -r _")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	its, err := processTree(child.Process.Pid)
	if err != nil || its.cpu <= 0 || its.rss <= 0 {
		t.Errorf("the child has %+v, %v", its, err)
	}
	both, err := processTree(os.Getpid())
	if err != nil || both.cpu < alone.cpu+its.cpu || both.peak < its.peak+alone.rss {
		t.Errorf("with a child that has %+v: %+v, %v; alone %+v", its, both, err, alone)
	}
	in.Close()
	_ = child.Wait() // read says at the end of its input that it failed
	after, err := processTree(os.Getpid())
	if err != nil || after.cpu < both.cpu {
		t.Errorf("the time of a child that has ended is forgotten: %v, before %v, %v", after.cpu, both.cpu, err)
	}
	if _, err := processTree(child.Process.Pid); err == nil {
		t.Error("a process that has ended is found")
	}
}

func TestOwnTime(t *testing.T) {
	before, err := ownTime()
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 20*time.Millisecond; {
	}
	if after, err := ownTime(); err != nil || after <= before {
		t.Errorf("%v after %v, %v", after, before, err)
	}
}

func TestStolen(t *testing.T) {
	const stat = "cpu  6360565 0 1 6170957 5 6 7 387157 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
	if got := stolenIn(stat); got != 3871570*time.Millisecond {
		t.Error(got)
	}
	if got := stolenIn(""); got != 0 {
		t.Error(got)
	}
}
