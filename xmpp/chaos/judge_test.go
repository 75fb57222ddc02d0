package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestJudge: whatever may go wrong is found. Each case is a world in which Ann's device a has sent Bob
// three messages, and one thing is different.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*scene)
		want   []string // what is said of each message that something is wrong with
	}{
		"nothing":                          {func(*scene) {}, nil},
		"not acknowledged":                 {func(s *scene) { s.messages[1].acked = event{} }, []string{"was never acknowledged"}},
		"in no archive":                    {func(s *scene) { s.kept = [2]string{"13", "13"}; s.unsee(2) }, []string{"is lost: 0 times in its sender's archive, 0", "is behind number 1", "is behind number 1"}},
		"in one archive":                   {func(s *scene) { s.kept = [2]string{"123", "12"}; s.unsee(3); s.resee("u00b", "123") }, []string{"is lost: 1 times in its sender's archive, 0"}},
		"twice in both archives":           {func(s *scene) { s.kept = [2]string{"1223", "1223"} }, []string{"is doubled: 2 times", "never came to u00b", "never came to u01a", "never came to u01b"}},
		"twice in one archive":             {func(s *scene) { s.kept = [2]string{"123", "1233"} }, []string{"is 1 times in its sender's archive, 2 times", "never came to u01a", "never came to u01b"}},
		"archives in another order":        {func(s *scene) { s.kept = [2]string{"132", "123"}; s.resee("u00b", "132") }, []string{"is behind number 1 in the archive of u00", "is behind number 3 in the archive of u00"}},
		"not seen":                         {func(s *scene) { s.resee("u01b", "13") }, []string{"never came to u01b"}},
		"carbon not seen":                  {func(s *scene) { s.resee("u00b", "12") }, []string{"never came to u00b"}},
		"seen twice":                       {func(s *scene) { s.resee("u01a", "1223") }, []string{"came twice to u01a"}},
		"seen twice, the second time late": {func(s *scene) { s.resee("u01a", "1232"); s.device("u01a").sightings[3].late = true }, []string{"came twice to u01a"}},
		"seen in another order":            {func(s *scene) { s.resee("u01a", "132") }, []string{"came to u01a behind"}},
		"seen by its sender":               {func(s *scene) { s.resee("u00a", "1") }, []string{"came back to u00a"}},
		"another identifier":               {func(s *scene) { s.device("u01b").sightings[0].id = "elsewhere" }, []string{"which the archive does not have", "never came to u01b"}},
		"in a page without need":           {func(s *scene) { s.device("u01b").sightings[1].how = paged }, []string{"came to u01b, but not as it happened"}},
		"in a page of another session":     {func(s *scene) { s.device("u01b").sightings[0].how = paged; s.rebind("u01b", 2, 1) }, nil},
		"late in another session": {func(s *scene) {
			s.resee("u01b", "1223")
			s.device("u01b").sightings[2].late = true
			s.rebind("u01b", 2, 2)
		}, nil},
		"left out in an earlier session": {func(s *scene) {
			s.resee("u01b", "1323")
			s.rebind("u01b", 2, 2)
			s.device("u01b").sightings[2].how = paged
			s.device("u01b").sightings[3].how = paged
		}, []string{"did not come to u01b in its session 1"}},
		"sent again": {func(s *scene) {
			s.kept = [2]string{"1232", "1232"}
			s.messages[1].repeated = true
			s.resee("u00b", "1232")
			s.resee("u01a", "1232")
			s.resee("u01b", "1232")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			c.change(s)
			v := s.world.judge(s.archives())
			var got []string
			for _, m := range v.wrong {
				got = append(got, m.text)
			}
			matches := len(got) == len(c.want)
			for i, want := range c.want {
				matches = matches && strings.Contains(got[i], want)
			}
			if !matches {
				t.Errorf("found\n%q, want\n%q", got, c.want)
			}
		})
	}
}

// A scene is a small world. Numbers stand for messages in it: "13" is the first and the third. The
// second time that a number is in an archive it is another row.
type scene struct {
	world    *world
	messages []*message
	kept     [2]string
}

func newScene() *scene {
	s := &scene{world: newWorld(2, 0), kept: [2]string{"123", "123"}}
	ann, bob := s.world.accounts[0], s.world.accounts[1]
	for i := range 3 {
		m := &message{sender: ann.devices[0], session: 1, to: bob, number: i + 1, acked: event{at: time.Now()}}
		m.origin = m.thread() + "." + string(rune('1'+i))
		s.messages = append(s.messages, m)
		s.world.messages[m.origin] = m
	}
	for _, d := range s.world.devices {
		d.session = 1
		d.whole[1] = 0
	}
	s.unsee(0)
	return s
}

// unsee makes all devices see everything but one message, or everything.
func (s *scene) unsee(number int) {
	numbers := strings.ReplaceAll("123", string(rune('0'+number)), "")
	for _, name := range []string{"u00b", "u01a", "u01b"} {
		s.resee(name, numbers)
	}
}

// resee makes a device see these messages.
func (s *scene) resee(name, numbers string) {
	d := s.device(name)
	d.sightings = nil
	for i, n := range numbers {
		m := s.messages[n-'1']
		d.sightings = append(d.sightings, sighting{message: m, id: s.id(d.account, numbers[:i], n), session: 1})
	}
}

// rebind makes what a device saw from there on be of another session.
func (s *scene) rebind(name string, session, from int) {
	d := s.device(name)
	d.session = session
	d.whole[session] = len(d.sightings)
	for i := range d.sightings[from:] {
		d.sightings[from+i].session = session
	}
}

func (s *scene) device(name string) *device {
	i := slices.IndexFunc(s.world.devices, func(d *device) bool { return d.name() == name })
	return s.world.devices[i]
}

// id is that of a message in an archive, which has those before it. A device that sees a message twice
// sees the same row, if the archive has no other.
func (s *scene) id(a *account, before string, n rune) string {
	times := min(strings.Count(before, string(n)), max(strings.Count(s.kept[a.index], string(n))-1, 0))
	return a.name + string(n) + strings.Repeat("'", times)
}

func (s *scene) archives() map[*account]*archive {
	all := make(map[*account]*archive)
	for i, a := range s.world.accounts {
		all[a] = newArchive()
		for j, n := range s.kept[i] {
			_ = all[a].add(s.id(a, s.kept[i][:j], n), s.messages[n-'1'])
		}
	}
	return all
}
